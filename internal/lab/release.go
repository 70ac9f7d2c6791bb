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
	// name is "system" for the engine that this machine has installed, "20", "26" or
	// "28" for a release of Debian's, or the absolute path of a directory with dockerd,
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

// parseEngines reads a choice of engines: one for all nodes, or a list that the
// nodes take in turn, as in "28+containerd,20".
func parseEngines(text string) ([]release, error) {
	if strings.TrimSpace(text) == "" {
		return []release{{name: systemRelease}}, nil
	}
	var all []release
	for item := range strings.SplitSeq(text, ",") {
		name, store, chosen := strings.Cut(strings.TrimSpace(item), "+")
		known := name == systemRelease || filepath.IsAbs(name) || suitesOf[name] != nil
		if !known || chosen && store != storeClassic && store != storeContainerd || name == "20" && store == storeContainerd {
			return nil, fmt.Errorf("no lab engine %q: choose system, 20, 26, 28 or the absolute path of a directory with dockerd, "+
				"containerd and runc, each but 20 also with +classic or +containerd for its image store, "+
				"or a comma-separated list of these for the nodes in turn", strings.TrimSpace(item))
		}
		all = append(all, release{name: name, store: store})
	}
	return all, nil
}

// engines returns the engines of the nodes, each node's in turn.
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
