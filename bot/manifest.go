package bot

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// scopes are what the bot token may: each is needed by a method that the code calls.
// Source: https://docs.slack.dev/reference/scopes
func scopes() []string {
	return append(historyScopes(), []string{
		"chat:write",        // post, edit, answer the asker alone
		"chat:write.public", // in public channels that the bot is not in
		"commands",
		"files:write",     // long logs as a file
		"im:write",        // to the asker alone
		"usergroups:read", // roles given to groups
		"users:read",      // who is an admin, a guest, deactivated
	}...)
}

// historyScopes let Waggle find a message again when Slack took it and the answer was lost.
// Without them it works, and posts such a message twice.
func historyScopes() []string {
	return []string{
		"channels:history", // in public channels
		"groups:history",   // in private channels
		"im:history",       // between one person and Waggle
	}
}

// manifest is the part of Slack's app manifest that Waggle sets.
// Source: https://docs.slack.dev/reference/app-manifest
type manifest struct {
	Display struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Background  string `json:"background_color"`
	} `json:"display_information"`
	Features struct {
		BotUser struct {
			DisplayName  string `json:"display_name"`
			AlwaysOnline bool   `json:"always_online"`
		} `json:"bot_user"`
		SlashCommands []slashCommand `json:"slash_commands"`
	} `json:"features"`
	OAuth struct {
		Scopes struct {
			Bot []string `json:"bot"`
		} `json:"scopes"`
	} `json:"oauth_config"`
	Settings struct {
		Interactivity struct {
			Enabled    bool   `json:"is_enabled"`
			RequestURL string `json:"request_url,omitempty"`
		} `json:"interactivity"`
		OrgDeploy     bool `json:"org_deploy_enabled"`
		SocketMode    bool `json:"socket_mode_enabled"`
		TokenRotation bool `json:"token_rotation_enabled"`
	} `json:"settings"`
}

type slashCommand struct {
	Command      string `json:"command"`
	URL          string `json:"url,omitempty"`
	Description  string `json:"description"`
	UsageHint    string `json:"usage_hint,omitempty"`
	ShouldEscape bool   `json:"should_escape"`
}

// Manifest returns the app manifest, as JSON, to paste where a Slack app is
// made. The base is where Slack reaches Waggle, such as https://waggle.acme.org;
// without one the app uses Socket Mode.
func Manifest(base string) ([]byte, error) {
	events := ""
	if base != "" {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("%q is no address that Slack can send to: it must be like https://waggle.example.com", base)
		}
		events = strings.TrimSuffix(strings.TrimRight(base, "/"), "/slack/events") + "/slack/events"
	}
	var m manifest
	m.Display.Name = "Waggle"
	m.Display.Description = "Runs a Docker Swarm from Slack: scale, deploy, roll back and join nodes."
	m.Display.Background = "#3b2f00"
	m.Features.BotUser.DisplayName = "Waggle"
	m.Features.BotUser.AlwaysOnline = true
	names, rows := slashCommands()
	for _, name := range names {
		var hints, shorts []string
		for _, c := range rows[name] {
			if hint := strings.TrimSpace(c.Verb + " " + c.Usage); hint != "" {
				hints = append(hints, hint)
			}
			shorts = append(shorts, c.Short)
		}
		description := shorts[0]
		if len(shorts) > 1 {
			description = cut(strings.Join(shorts, " · "), 100)
		}
		// Escaping turns names into ids, which are unique.
		m.Features.SlashCommands = append(m.Features.SlashCommands,
			slashCommand{Command: name, URL: events, Description: description, UsageHint: cut(strings.Join(hints, " | "), 1000), ShouldEscape: true})
	}
	m.OAuth.Scopes.Bot = scopes()
	m.Settings.Interactivity.Enabled, m.Settings.Interactivity.RequestURL = true, events
	m.Settings.SocketMode = events == ""
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // <app> is for people to read
	e.SetIndent("", "  ")
	if err := e.Encode(m); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
