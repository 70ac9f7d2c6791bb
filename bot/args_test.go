package bot

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"waggle/ops"
)

func TestParseArgs(t *testing.T) {
	for name, tc := range map[string]struct {
		text  string
		words []string
		flags string
		err   string
	}{
		"empty":                {"", nil, "", ""},
		"spaces":               {"  pizza \t 6\n", []string{"pizza", "6"}, "", ""},
		"no-break space":       {"pizza\u00a06", []string{"pizza", "6"}, "", ""},
		"flag":                 {"pizza 6 --dry-run", []string{"pizza", "6"}, "dry-run", ""},
		"flag first":           {"--dry-run pizza 6", []string{"pizza", "6"}, "dry-run", ""},
		"flag, em dash":        {"pizza 6 —dry-run", []string{"pizza", "6"}, "dry-run", ""},
		"flag, two en dashes":  {"pizza 6 ––dry-run", []string{"pizza", "6"}, "dry-run", ""},
		"minus sign":           {"pizza −2", []string{"pizza", "-2"}, "", ""},
		"en dash as minus":     {"pizza –2", []string{"pizza", "-2"}, "", ""},
		"one dash is a word":   {"pizza -1", []string{"pizza", "-1"}, "", ""},
		"two dashes alone":     {"pizza -- 1", []string{"pizza", "--", "1"}, "", ""},
		"unknown flag":         {"pizza 6 --force", nil, "", "Unknown flag --force"},
		"near flag":            {"pizza 6 --dryrun", nil, "", "Did you mean `--dry-run`?"},
		"flag with value":      {"pizza 6 --dry-run=yes", nil, "", "--dry-run takes no value"},
		"option without":       {"pizza --user", nil, "", "--user needs a value"},
		"double quotes":        {`all "two words"`, []string{"all", "two words"}, "", ""},
		"single quotes":        {`all 'two words'`, []string{"all", "two words"}, "", ""},
		"smart quotes":         {"all “two words”", []string{"all", "two words"}, "", ""},
		"German quotes":        {"all „two words“", []string{"all", "two words"}, "", ""},
		"smart single quotes":  {"all ‘two words’", []string{"all", "two words"}, "", ""},
		"quotes in a word":     {`a"b c"d`, []string{"ab cd"}, "", ""},
		"empty quotes":         {`a "" b`, []string{"a", "", "b"}, "", ""},
		"quote in other":       {`"it's"`, []string{"it's"}, "", ""},
		"apostrophes":          {"all Don’t deploy, we’re at lunch", []string{"all", "Don't", "deploy,", "we're", "at", "lunch"}, "", ""},
		"one apostrophe":       {"pizza don't touch", []string{"pizza", "don't", "touch"}, "", ""},
		"after an =":           {"set A='b c' B=it's", []string{"set", "A=b c", "B=it's"}, "", ""},
		"after a quote":        {`"a"'s`, []string{"a's"}, "", ""},
		"open single quote":    {"all 'two words", nil, "", "A quote (') is not closed"},
		"open quote":           {`all "two words`, nil, "", `A quote (") is not closed`},
		"person":               {"<@U1|ann> x", []string{"U1", "x"}, "", ""},
		"person, no name":      {"<@U1>", []string{"U1"}, "", ""},
		"channel":              {"<#C1|ops>", []string{"C1"}, "", ""},
		"channel, empty name":  {"<#C1|>", []string{"C1"}, "", ""},
		"link":                 {"<http://pizza.io/a>", []string{"http://pizza.io/a"}, "", ""},
		"link with label":      {"<http://reg.io:5000/pizza|reg.io:5000/pizza>", []string{"reg.io:5000/pizza"}, "", ""},
		"mail":                 {"<mailto:a@b.io|a@b.io>", []string{"a@b.io"}, "", ""},
		"mail, no label":       {"<mailto:a@b.io>", []string{"a@b.io"}, "", ""},
		"group":                {"<!subteam^S1|@ops>", []string{"@ops"}, "", ""},
		"entities":             {"a &lt;b&gt; &amp; c", []string{"a", "<b>", "&", "c"}, "", ""},
		"entity of an entity":  {"&amp;lt;", []string{"&lt;"}, "", ""},
		"typed angle brackets": {"&lt;!channel&gt;", []string{"<!channel>"}, "", ""},
		"address":              {"10.0.0.12", []string{"10.0.0.12"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			args, err := parseLine(tc.text, []string{dryRun}, []string{"user"})
			if tc.err != "" {
				if err == nil || !strings.Contains(sentence(err), tc.err) {
					t.Errorf("error = %v, want %q in it", err, tc.err)
				}
				if ops.CodeOf(err) != ops.Invalid {
					t.Errorf("code = %q", ops.CodeOf(err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%q", args.Words) != fmt.Sprintf("%q", tc.words) {
				t.Errorf("words = %q, want %q", args.Words, tc.words)
			}
			if args.Flags[dryRun] != (tc.flags == dryRun) {
				t.Errorf("flags = %v", args.Flags)
			}
		})
	}
}

// parseLine parses what follows a command without verbs.
func parseLine(text string, flags, options []string) (Args, error) {
	words, err := split(plain(text))
	if err != nil {
		return Args{}, err
	}
	return parseArgs(words, flags, options)
}

func TestOptions(t *testing.T) {
	for _, text := range []string{"n1 --user bee --port=2222", "--user=bee n1 --port 2222"} {
		args, err := parseLine(text, nil, []string{"user", "port"})
		if err != nil || fmt.Sprint(args.Words) != "[n1]" || args.Options["user"] != "bee" || args.Options["port"] != "2222" {
			t.Errorf("%q: %+v, %v", text, args, err)
		}
	}
}

func TestParseCount(t *testing.T) {
	for word, want := range map[string]string{
		"6": "6", "0": "0", "+2": "+2", "-1": "-1", "007": "7", "+0": "+0",
		"1.5": "fraction", ".5": "fraction", "1,5": "fraction", "six": "not a number", "": "not a number", "6x": "not a number",
		"0x10": "not a number", "1e3": "not a number", "٣": "not a number", "+": "not a number", "--1": "not a number",
		"99999999999999999999": "too large", "-99999999999999999999": "too large",
	} {
		n, relative, err := parseCount(word)
		got := fmt.Sprint(n)
		if relative {
			got = fmt.Sprintf("%+d", n)
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || err == nil && got != want {
			t.Errorf("%q is %q, want %q", word, got, want)
		}
	}
}

func TestParseApp(t *testing.T) {
	for word, ok := range map[string]bool{
		"pizza": true, "a": true, "web.1": true, "shop_web-2": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "a b": false, "a/b": false, "a`b": false, "a\nb": false, "ä": false,
		strings.Repeat("a", 64): false, "<!channel>": false,
	} {
		if _, err := parseApp(word); (err == nil) != ok {
			t.Errorf("%q: %v", word, err)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{{"pizza", 5, "pizza"}, {"pizza", 4, "piz…"}, {"äöü", 3, "äöü"}, {"äöüß", 3, "äö…"}, {"", 3, ""}} {
		if got := cut(tc.text, tc.n); got != tc.want {
			t.Errorf("cut(%q, %d) = %q, want %q", tc.text, tc.n, got, tc.want)
		}
	}
}

func FuzzParseArgs(f *testing.F) {
	for _, s := range []string{"", "pizza 6", "pizza +2 --dry-run", `all "two words`, "<@U1|ann>", "<http://x|x>", "“a” ‘b’", "—dry-run", "&lt;!channel&gt;", "<|>", "<<>>", "\x00\xff", "--", "'", "&amp;amp;"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		args, err := parseLine(text, []string{dryRun}, nil)
		if err != nil {
			if ops.CodeOf(err) != ops.Invalid {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		for name := range args.Flags {
			if name != dryRun {
				t.Fatalf("%q has flag %q", text, name)
			}
		}
		for _, c := range Commands() {
			if c.Parse == nil {
				continue
			}
			if op, err := c.Parse(args); err == nil && (op == nil || op.Target() == "") {
				t.Fatalf("%q is %#v", text, op)
			} else if err != nil && utf8.ValidString(text) && !utf8.ValidString(usage(err, c)) {
				t.Fatalf("%q is answered with %q", text, usage(err, c))
			}
		}
	})
}
