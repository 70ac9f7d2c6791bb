package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
)

const (
	registriesConfig = "waggle-registries-" // and a number: the highest counts
	registriesKept   = 2
	registriesFormat = 1
	// registriesMax is half of what the swarm takes (1000 KB), and all that
	// engines before 20.10 took.
	registriesMax = 500_000 // bytes
)

// storedRegistries is the config's JSON.
type storedRegistries struct {
	Format     int        `json:"format"`
	Default    string     `json:"default,omitempty"`
	Registries []Registry `json:"registries"`
}

// ReadRegistries returns the swarm's registries; none when there never were any.
// There is no cache: it is one request to a manager, which has them in memory.
func ReadRegistries(ctx context.Context, configs Configs) (Registries, error) {
	all, err := numbered(ctx, configs)
	if err != nil || len(all) == 0 {
		return Registries{}, err
	}
	return decodeRegistries(all[0])
}

// numberedConfig is a config of the registries.
type numberedConfig struct {
	Config
	number int
}

// numbered returns the configs of the registries, the highest number first.
func numbered(ctx context.Context, configs Configs) ([]numberedConfig, error) {
	all, err := configs.Configs(ctx, registriesConfig)
	if err != nil {
		return nil, err
	}
	var out []numberedConfig
	for _, c := range all {
		digits, ours := strings.CutPrefix(c.Name, registriesConfig)
		n, err := strconv.Atoi(digits)
		if ours && err == nil && n > 0 && strconv.Itoa(n) == digits {
			out = append(out, numberedConfig{c, n})
		}
	}
	slices.SortFunc(out, func(a, b numberedConfig) int { return b.number - a.number })
	return out, nil
}

func decodeRegistries(c numberedConfig) (Registries, error) {
	broken := func(err error) error {
		e := &Error{Code: Invalid, Sentence: fmt.Sprintf("The swarm's config %s is not what this Waggle wrote there", c.Name), Err: err}
		return e.Then("If a newer Waggle did, use that one. Otherwise look who did; the one before may still be there: `docker config ls`.")
	}
	var stored storedRegistries
	d := json.NewDecoder(bytes.NewReader(c.Data))
	d.DisallowUnknownFields()
	if err := d.Decode(&stored); err != nil {
		return Registries{}, broken(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Registries{}, broken(errors.New("there is more after the JSON"))
	}
	if stored.Format != registriesFormat {
		return Registries{}, broken(fmt.Errorf("format %d", stored.Format))
	}
	return Registries{List: stored.Registries, Default: stored.Default, number: c.number}, nil
}

// SaveRegistries stores registries that were made from what ReadRegistries
// returned. OutOfDate when they have been changed since: nothing is lost, read
// and plan again.
//
// Creating the config of the next number is the compare-and-swap. Old numbers are
// removed, so a late writer may find its number free again; it sees then that a
// higher one is older than its own, and takes its own back.
func SaveRegistries(ctx context.Context, configs Configs, rs Registries, log *slog.Logger) error {
	data, err := json.MarshalIndent(storedRegistries{Format: registriesFormat, Default: rs.Default, Registries: rs.List}, "", " ")
	if err != nil {
		return fmt.Errorf("encode registries: %w", err)
	}
	if len(data) > registriesMax {
		return Errorf(Invalid, "These registries take %d KB, and Waggle keeps at most %d KB of them in the swarm", len(data)/1000, registriesMax/1000).
			Then("Nothing was changed. Remove registries that are not used.")
	}
	changed := Errorf(OutOfDate, "The registries were changed by somebody else in the meantime")
	id, err := configs.CreateConfig(ctx, registriesConfig+strconv.Itoa(rs.number+1), data)
	if CodeOf(err) == OutOfDate {
		return changed
	}
	if err != nil {
		return err
	}
	all, err := numbered(ctx, configs)
	if err != nil {
		return (&Error{Code: Unavailable, Sentence: "The registries were written, but the swarm does not say whether that counts", Err: err}).
			Then("`/registry list` shows them as they are.")
	}
	own := slices.IndexFunc(all, func(c numberedConfig) bool { return c.ID == id })
	if own < 0 { // so far behind that somebody has cleaned it up
		return changed
	}
	for _, c := range all[:own] {
		if c.Version < all[own].Version {
			if err := configs.RemoveConfig(ctx, id); err != nil && CodeOf(err) != NotFound {
				log.Warn("a config of the registries that does not count was left", "config", all[own].Name, "err", err)
			}
			return changed
		}
	}
	for _, c := range all[own:] {
		if c.number > all[own].number-registriesKept {
			continue
		}
		if err := configs.RemoveConfig(ctx, c.ID); err != nil && CodeOf(err) != NotFound {
			log.Warn("an old config of the registries was left", "config", c.Name, "err", err)
		}
	}
	return nil
}
