package config_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"waggle/config"
)

const canary = "canary7f3a"

func TestSettingsNeverPrintSecrets(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("canary7f3a-canary7f3a-canary7f3a")[:32])
	s, err := load("", []string{
		"WAGGLE_SLACK_BOT_TOKEN=xoxb-" + canary, "WAGGLE_SLACK_APP_TOKEN=xapp-" + canary, "WAGGLE_SLACK_SIGNING_SECRET=" + canary,
		"WAGGLE_REDIS_URL=redis://u:" + canary + "@h:1/0", "WAGGLE_SECRET_KEY=" + key,
		"WAGGLE_WEBHOOKS_GITHUB_SECRET=" + canary + "\n" + canary, "WAGGLE_WEBHOOKS_AZURE_SECRET=" + canary,
		"WAGGLE_GIT_CREDENTIALS=[{host: g.com, token: " + canary + "}]",
		"WAGGLE_SSH_KEY_FILE=/keys/id", "WAGGLE_SSH_PASSPHRASE=" + canary,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "settings", s, "pointer", &s, "slack", s.Slack, "git", s.Git, "ssh", s.SSH, "webhooks", s.Webhooks)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "settings", s, "pointer", &s, "slack", s.Slack, "git", s.Git, "ssh", s.SSH, "webhooks", s.Webhooks)
	asJSON, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{
		"String": s.String(), "Redacted": fmt.Sprint(s.Redacted()), "%v": fmt.Sprintf("%v", s), "%+v": fmt.Sprintf("%+v", s),
		"%#v": fmt.Sprintf("%#v", s), "%+v of a pointer": fmt.Sprintf("%+v", &s), "%+v of parts": fmt.Sprintf("%+v %+v %+v %#v", s.Slack, s.Git, s.Webhooks, s.Webhooks),
		"JSON": string(asJSON), "YAML": string(asYAML), "slog": logged.String(), "error": fmt.Errorf("with %v", s).Error(),
	} {
		if strings.Contains(got, canary) || strings.Contains(got, key) {
			t.Errorf("%s prints a secret: %s", name, got)
		}
		if !strings.Contains(got, "secret>") && !strings.Contains(got, `secret\u003e`) {
			t.Errorf("%s does not say that secrets are set: %s", name, got)
		}
	}
}

func TestProblemsNeverPrintSecrets(t *testing.T) {
	for name, test := range map[string]struct {
		yaml string
		env  []string
	}{
		"wrong prefix":         {env: []string{"WAGGLE_SLACK_BOT_TOKEN=" + canary, "WAGGLE_SLACK_APP_TOKEN=" + canary}},
		"not one line":         {env: []string{"WAGGLE_SLACK_BOT_TOKEN=xoxb- " + canary, "WAGGLE_SLACK_SIGNING_SECRET=a " + canary}},
		"token for secret":     {env: []string{"WAGGLE_SLACK_SIGNING_SECRET=xoxb-" + canary}},
		"secret key":           {env: []string{"WAGGLE_SECRET_KEY=" + canary}},
		"redis scheme":         {env: []string{"WAGGLE_REDIS_URL=" + canary}},
		"redis unescaped":      {env: []string{"WAGGLE_REDIS_URL=redis://:a/" + canary + "@h:1/0"}},
		"redis unescaped %":    {env: []string{"WAGGLE_REDIS_URL=redis://:%zz" + canary + "@h:1/0"}},
		"redis unescaped ?":    {env: []string{"WAGGLE_REDIS_URL=redis://:a?" + canary + "@h:1/0"}},
		"redis options":        {env: []string{"WAGGLE_REDIS_URL=redis://h/0?pool_size=" + canary}},
		"redis sentinel":       {env: []string{"WAGGLE_REDIS_URL=redis-sentinel://:" + canary + "@h"}},
		"credentials text":     {env: []string{"WAGGLE_GIT_CREDENTIALS=" + canary}},
		"credentials not YAML": {env: []string{"WAGGLE_GIT_CREDENTIALS=[{token: '" + canary + "}]"}},
		"credentials alias":    {env: []string{"WAGGLE_GIT_CREDENTIALS=[{token: *" + canary + "}]"}},
		"credential key":       {env: []string{"WAGGLE_GIT_CREDENTIALS=[{host: 'https://x:" + canary + "@h', token: " + canary + ", a: " + canary + "}]"}},
		"alias":                {yaml: "secret_key: *" + canary},
		"escape":               {yaml: "secret_key: \"\\q" + canary + "\""},
		"tag":                  {yaml: "secret_key: !" + canary + " [\n"},
		"list for one":         {yaml: "secret_key: [" + canary + "]"},
		"mapping in list":      {yaml: "webhooks: {github: {secret: [{a: " + canary + "}]}}"},
		"section":              {yaml: "slack: " + canary},
		"api url":              {env: []string{"WAGGLE_SLACK_API_URL=ftp://u:" + canary + "@x"}},
		"docker":               {env: []string{"WAGGLE_DOCKER_HOST=ssh://u:" + canary + "@x"}},
		"registry":             {env: []string{"WAGGLE_REGISTRY_DOMAIN=u:" + canary + "@x", "WAGGLE_REGISTRY_PASSWORD=" + canary}},
		"unknown key":          {yaml: "slack: {bot_tokn: " + canary + "}"},
		"unknown variable":     {env: []string{"WAGGLE_SLACK_BOT_TOKN=" + canary}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(test.yaml, test.env, nil)
			if err == nil {
				t.Fatal("no problem")
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the problem prints the secret: %v", err)
			}
		})
	}
}

func TestRedisOptions(t *testing.T) {
	for _, test := range []struct {
		url, want string // addresses, database, user, password, master, Sentinels' password, TLS name
	}{
		{"redis://redis:6379/0", `[redis:6379] 0 "" "" "" "" <nil>`},
		{"redis://redis", `[redis:6379] 0 "" "" "" "" <nil>`},
		{"redis://ann:p%40%2Fw@[::1]:7/3", `[[::1]:7] 3 "ann" "p@/w" "" "" <nil>`},
		{"rediss://:pw@redis.example.com", `[redis.example.com:6379] 0 "" "pw" "" "" "redis.example.com"`},
		{"redis://:pw@a:1,b:2,c", `[a:1 b:2 c:6379] 0 "" "pw" "" "" <nil>`},
		{"rediss://a:1,b:2/0", `[a:1 b:2] 0 "" "" "" "" ""`},
		{"redis-sentinel://:pw@a,b:2/1?master=main&sentinel_password=sp", `[a:26379 b:2] 1 "" "pw" "main" "sp" <nil>`},
		{"rediss-sentinel://a?master=main", `[a:26379] 0 "" "" "main" "" ""`},
		{"redis:6379", "error"}, {"http://redis", "error"}, {"redis://", "error"}, {"redis://a,,b", "error"},
		{"redis://h:port", "error"}, {"redis://h/one", "error"}, {"redis://h?nonsense=1", "error"},
		{"redis-sentinel://a,b", "error"}, {"redis://a,b/2", "error"}, {"redis://h?a=%zz", "error"},
	} {
		t.Run(test.url, func(t *testing.T) {
			var s config.Settings
			_ = s.Redis.URL.UnmarshalText([]byte(test.url))
			o, err := s.Redis.Options()
			got := "error"
			if err == nil {
				tls := "<nil>"
				if o.TLSConfig != nil {
					tls = fmt.Sprintf("%q", o.TLSConfig.ServerName)
				}
				got = fmt.Sprintf("%v %d %q %q %q %q %s", o.Addrs, o.DB, o.Username, o.Password, o.MasterName, o.SentinelPassword, tls)
			}
			if got != test.want {
				t.Errorf("got %s (%v), want %s", got, err, test.want)
			}
		})
	}
}
