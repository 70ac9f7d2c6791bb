package bot

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"waggle/internal/secret"
	"waggle/ops"
)

// Slack's own commands: an app's of the same name is never called.
// Source: https://slack.com/help/articles/201259356-Slash-commands-in-Slack
var slacksOwn = strings.Fields(`/archive /active /apps /away /call /clear /collapse /dm /dnd /expand /feed /feedback
	/huddle /invite /invite_people /join /kick /leave /list /me /msg /mute /open /pref /prefs /rename /remove /remind
	/search /shortcuts /shrug /star /status /topic /who`)

func TestCommandTable(t *testing.T) {
	names := map[string]bool{}
	kinds := map[string]string{}
	slashNames, _ := slashCommands()
	if n := len(slashNames); n > 50 {
		t.Errorf("%d commands; an app may have 50", n)
	}
	for _, c := range Commands() {
		t.Run(c.line(), func(t *testing.T) {
			if !regexp.MustCompile(`^/[a-z][a-z0-9-]*$`).MatchString(c.Name) || len(c.Name) > 32 {
				t.Errorf("a command has lower-case letters after its slash, 32 characters at most")
			}
			if key := c.Name + " " + c.Verb; names[key] {
				t.Errorf("it is in the table twice")
			} else {
				names[key] = true
			}
			for _, own := range slacksOwn {
				if c.Name == own {
					t.Errorf("Slack has a command of that name itself")
				}
			}
			// Source: https://docs.slack.dev/reference/app-manifest
			if n := utf8.RuneCountInString(c.Usage); n > 1000 {
				t.Errorf("the usage has %d characters; Slack takes 1000", n)
			}
			if n := utf8.RuneCountInString(c.Short); n == 0 || n > 2000 || n > 70 {
				t.Errorf("the description has %d characters: Slack takes 2000 and shows about 70", n)
			}
			if strings.HasSuffix(c.Short, ".") || strings.ContainsAny(c.Short+c.Usage, "\n`") {
				t.Errorf("usage and description are one line each, without backticks and a period")
			}
			ways := 0
			for _, is := range []bool{c.New != nil, c.Ask != nil && c.New == nil, c.Answer != nil} {
				if is {
					ways++
				}
			}
			if ways != 1 || (c.Parse == nil && c.Form == nil) != (c.New == nil) {
				t.Errorf("a command either changes (Parse and New), asks or answers")
			}
			if len(c.Example) == 0 {
				t.Errorf("it has no example")
			}
			if c.New != nil {
				if other, ok := kinds[c.New().Kind()]; ok {
					t.Errorf("%s has the same kind of operation", other)
				}
				kinds[c.New().Kind()] = c.Name
				if !strings.Contains(c.Usage, "--"+dryRun) {
					t.Errorf("its usage does not say --%s", dryRun)
				}
			}
			for _, e := range c.Example {
				text, ok := strings.CutPrefix(e, strings.TrimSpace(c.Name+" "+c.Verb))
				if !ok || text != "" && text[0] != ' ' {
					t.Errorf("%q is an example of another command", e)
					continue
				}
				parses(t, c, text)
			}
		})
	}
	for kind, make := range Kinds() {
		if got := make().Kind(); got != kind {
			t.Errorf("kind %q makes a %q", kind, got)
		}
	}
}

// parses checks that a row takes a line, and that what it makes survives being stored.
func parses(t *testing.T, c Command, text string) {
	t.Helper()
	args, err := parseLine(text, c.flags(), c.Options)
	if err != nil {
		t.Errorf("%s%s: %v", c.Name, text, err)
		return
	}
	if c.Answer != nil {
		o := newOffice(t)
		o.work(&submitter{})
		asked := ops.Request{Actor: ops.Actor{ID: ada, Team: o.TeamID(), Via: "slack"}}
		if answer, err := c.Answer(t.Context(), o.bot, asked, args); err != nil || answer == "" && c.Verb != "cancel" {
			t.Errorf("%s%s: %q, %v", c.Name, text, answer, err)
		}
		return
	}
	if c.New == nil {
		if q, err := c.Ask(args); err != nil || q == nil {
			t.Errorf("%s%s: %v", c.Name, text, err)
		}
		return
	}
	args = c.each(args)[0]
	op, err := c.parse(args)
	if errors.Is(err, errForm) && c.Form != nil || errors.Is(err, errAsk) && c.Ask != nil {
		return
	}
	if s, ok := op.(ops.Sealer); ok && err == nil {
		key, _ := secret.NewKey(make([]byte, secret.KeySize))
		if err := s.Seal(key); err != nil {
			t.Error(err)
		}
		return // what is open of it is not kept, so it does not come back the same
	}
	if err != nil {
		t.Errorf("%s%s: %v", c.Name, text, err)
		return
	}
	stored := c.New()
	if op.Kind() != stored.Kind() {
		t.Errorf("%s%s is a %q, and is stored as a %q", c.Name, text, op.Kind(), stored.Kind())
	}
	b, err := json.Marshal(op)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, stored); err != nil || fmt.Sprintf("%+v", stored) != fmt.Sprintf("%+v", op) {
		t.Errorf("%s%s is %+v, and comes back as %+v (%v)", c.Name, text, op, stored, err)
	}
}

func TestScaleIsParsed(t *testing.T) {
	for text, want := range map[string]string{
		"pizza 6":     "{App:pizza Replicas:6 Relative:false",
		"pizza +2":    "{App:pizza Replicas:2 Relative:true",
		"pizza -1":    "{App:pizza Replicas:-1 Relative:true",
		"pizza":       "/scale takes an app and a number, and was given only pizza",
		"":            "/scale takes an app and a number, and was given nothing",
		"pizza 6 7":   "/scale takes an app and a number, and was given 3 words",
		"6 pizza":     "is not a number of replicas",
		"pizza! 6":    "is no app's name",
		"pizza 1.5":   "is a fraction",
		"pizza =6":    "is not a number of replicas",
		"<@U1|ann> 6": "{App:U1 Replicas:6",
	} {
		args, err := parseLine(text, []string{dryRun}, nil)
		if err != nil {
			t.Fatal(err)
		}
		op, err := parseScale(args)
		got := ""
		if err != nil {
			got = err.Error()
			if ops.CodeOf(err) != ops.Invalid {
				t.Errorf("%q: code %q", text, ops.CodeOf(err))
			}
		} else {
			got = fmt.Sprintf("%+v", *op.(*ops.Scale))
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestHelp(t *testing.T) {
	text, err := answerHelp(t.Context(), nil, ops.Request{}, Args{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Commands() {
		if !strings.Contains(text, strings.TrimSpace(c.Name+" "+c.Verb)) {
			t.Errorf("the help does not name %s:\n%s", c.line(), text)
		}
	}
	if strings.Contains(text, "<app>") {
		t.Errorf("Slack takes <app> for a link:\n%s", text)
	}
	for words, want := range map[string]string{
		"node": "/node drain", "/scale": "/scale &lt;app&gt;", "node drain": "/node drain",
		"nod": "Did you mean `/node`?", "node drian": "Did you mean `/node drain`?", "scale 3": "/scale has no \"3\"", "node drain n1": "/node has no",
	} {
		text, err := answerHelp(t.Context(), nil, ops.Request{}, Args{Words: strings.Fields(words)})
		if err != nil {
			text = sentence(err)
		}
		if !strings.Contains(text, want) || strings.Contains(text, "/registry") || strings.Contains(words, " ") && strings.Contains(text, "/node list") {
			t.Errorf("of %s: %s, want %s", words, text, want)
		}
	}
}

func TestFind(t *testing.T) {
	for line, want := range map[string]string{
		"/scale pizza 6": "/scale [pizza 6]", "/swarm audit pizza": "/swarm audit [pizza]", "/swarm help": "/swarm help []",
		"/swarm": "/swarm []", "/node": "/node needs to know what. It knows list, show, drain", "/join-node n4": "/join-node [n4]", "/join-node key": "/join-node key []", "/swarm halp": "Did you mean `/swarm help`?",
		"/node help": "/swarm help [/node]", "/node help drain": "/swarm help [/node drain]", "/scale --help": "/swarm help [/scale]", "/app -h": "/swarm help [/app]",
		"/join-node help rotate": "/swarm help [/join-node rotate]", "/join-node help": "/swarm help [/join-node]", "/join-node help worker": "/join-node [help worker]",
		"/scale help 3": "/scale [help 3]", "/swarm help node": "/swarm help [node]",
		"/swarm x": "It knows pending, cancel, audit, help.", "/scal pizza": "Did you mean `/scale`?", "/pizza": "`/swarm help` lists them.",
	} {
		words := strings.Fields(line)
		c, rest, err := find(words[0], words[1:])
		got := strings.TrimSpace(c.Name+" "+c.Verb) + " " + fmt.Sprint(rest)
		if err != nil {
			e := err.(*ops.Error)
			got = e.Sentence + ". " + e.Next
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}
