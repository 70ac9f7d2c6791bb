package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// EngineEnv is the variable that chooses the engines of a lab, as in Options.Engine.
const EngineEnv = "WAGGLE_LAB_ENGINE"

// Image stores of an engine. The containerd image store is the default of new
// installations of Engine 29; it exists since 24.
const (
	storeClassic    = "classic"
	storeContainerd = "containerd"
)

// release is a Docker engine that a node runs.
type release struct {
	// name is "system" for the engine that this machine has installed, "20", "26" or "28"
	// for one of Debian's packages, or the absolute path of a directory with dockerd,
	// containerd, containerd-shim-runc-v2 and runc.
	name string
	// store is the image store, "" for the release's own default.
	store string
}

func (r release) String() string {
	if r.store == "" {
		return r.name
	}
	return r.name + "+" + r.store
}

// systemRelease is the engine that this machine has installed.
const systemRelease = "system"

// parseEngines reads comma-separated engines, which are assigned to the nodes in order:
// "28+containerd,20".
func parseEngines(text string) ([]release, error) {
	if strings.TrimSpace(text) == "" {
		return []release{{name: systemRelease}}, nil
	}
	var all []release
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		r := release{name: item}
		for _, store := range []string{storeClassic, storeContainerd} {
			if name, ok := strings.CutSuffix(item, "+"+store); ok {
				r = release{name, store}
			}
		}
		known := r.name == systemRelease || filepath.IsAbs(r.name) || suitesOf[r.name] != nil
		if !known || r.name == "20" && r.store == storeContainerd {
			return nil, fmt.Errorf("unknown lab engine %q: use system, 20, 26, 28 or an absolute directory of programs, "+
				"optionally with +classic or +containerd (not 20+containerd)", item)
		}
		all = append(all, r)
	}
	return all, nil
}

// engines returns the engines to assign to the nodes in order.
func (o Options) engines() ([]release, error) {
	text, from := o.Engine, "the lab's engine"
	if text == "" {
		text, from = os.Getenv(EngineEnv), EngineEnv
	}
	all, err := parseEngines(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return all, nil
}
