// Package secret holds values that must never be printed.
package secret

import "log/slog"

const mask = "<secret>"

// Text is a secret string: a token, password or key. Every common way of
// printing or encoding it gives "<secret>", and nothing for an empty one, so
// that a log line, an error or a JSON document cannot leak it by accident.
type Text string

// Reveal returns the secret itself. Call it only where it is used.
func (t Text) Reveal() string { return string(t) }

// Empty says whether no secret is set.
func (t Text) Empty() bool { return t == "" }

func (t Text) String() string {
	if t == "" {
		return ""
	}
	return mask
}

// GoString hides the secret from %#v.
func (t Text) GoString() string { return t.String() }

// MarshalText hides the secret from JSON, YAML and text encoders.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText takes the text as the secret.
func (t *Text) UnmarshalText(b []byte) error { *t = Text(b); return nil }

// LogValue hides the secret from slog.
func (t Text) LogValue() slog.Value { return slog.StringValue(t.String()) }
