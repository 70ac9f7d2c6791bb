package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// oldestTested is the oldest engine that Waggle is tested on.
const oldestTested = "20.10"

// advisory is a known vulnerability of the BuildKit that is part of an engine. Anyone with push
// access to an app's repository can exploit it on the manager that builds.
type advisory struct {
	fixedIn string // the first engine without it
	what    string
	ids     string
}

// advisories are the known ones, the oldest first. An engine gets one warning, for the oldest
// that it lacks the fix of.
// Sources: the release notes of Docker Engine 25.0.2 and 29.8.2, and of BuildKit 0.28.1.
var advisories = []advisory{
	{"25.0.2", "a Dockerfile can read, delete and run files on the host", "CVE-2024-23651, CVE-2024-23652, CVE-2024-23653"},
	{"29.3.1", "the image named in a `# syntax=` line can write files on the host", "CVE-2026-33747"},
	{"29.8.2", "a build can exhaust the engine's memory", "GHSA-mgqf-486f-49vp"},
}

// EngineCheck asks which engines the nodes run, and for their known problems.
type EngineCheck struct{}

func (EngineCheck) Needs() Role { return Viewer }

// Ask lists version, API and image store of each node. It queries Waggle's own engine and the
// nodes that it joined over SSH; for other nodes the swarm knows only the version.
func (EngineCheck) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	nodes, err := r.Env.Swarm.Nodes(ctx)
	if err != nil {
		return Answer{}, err
	}
	cluster, err := r.Env.Swarm.Cluster(ctx)
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	machines, problems := make([]Machine, len(nodes)), make([]error, len(nodes))
	var looks errgroup.Group
	looks.SetLimit(8)
	for i, n := range nodes {
		looks.Go(func() error {
			machines[i], problems[i] = r.Env.machineOf(ctx, n, n.ID == cluster.Self)
			return nil
		})
	}
	_ = looks.Wait() // what went wrong is in problems
	rows := [][]string{{"NODE", "DOCKER", "API", "IMAGE STORE"}}
	queried := 0
	for i, n := range nodes {
		row := []string{n.Hostname, n.EngineVersion, "-", "not queried: " + sentenceOf(problems[i])}
		if problems[i] == nil {
			queried++
			row[1], row[2], row[3] = machines[i].EngineVersion, machines[i].APIVersion, machines[i].ImageStore
		}
		rows = append(rows, row)
	}
	a := Answer{Head: fmt.Sprintf("%s, %d queried", many(len(nodes), "engine"), queried), Parts: []Part{{Table: rows}}}
	engineConcerns(&a, nodes, machines)
	return a, nil
}

// machineOf asks a node's engine about itself.
func (e Env) machineOf(ctx context.Context, n Node, self bool) (Machine, error) {
	if self {
		return e.Swarm.Machine(ctx)
	}
	if !n.up() {
		return Machine{}, Errorf(Unavailable, "it is %s", n.State)
	}
	server, err := e.connect(ctx, n)
	if err != nil {
		return Machine{}, err
	}
	defer func() { _ = server.Close() }() // only read
	return server.Machine(ctx)
}

// engineConcerns adds known problems of the nodes' engines, and that the nodes differ. A version
// without a number is left out.
func engineConcerns(a *Answer, nodes []Node, machines []Machine) {
	var old []string
	vulnerable := make([][]string, len(advisories)) // nodes by their oldest advisory
	versions, stores := map[string][]string{}, map[string][]string{}
	for i, n := range nodes {
		version := n.EngineVersion
		if len(versionOf(version)) > 0 {
			versions[version] = append(versions[version], n.Hostname)
		}
		if store := machines[i].ImageStore; store != "" {
			stores[store] = append(stores[store], n.Hostname)
		}
		if older(version, oldestTested) {
			old = append(old, fmt.Sprintf("%s (%s)", n.Hostname, version))
		}
		if k := slices.IndexFunc(advisories, func(v advisory) bool { return older(version, v.fixedIn) }); k >= 0 && n.Role == "manager" {
			vulnerable[k] = append(vulnerable[k], fmt.Sprintf("%s (%s)", n.Hostname, version))
		}
	}
	if len(old) > 0 {
		a.Concern(fmt.Sprintf("%s: Waggle is tested on Docker %s and later", strings.Join(old, ", "), oldestTested), "upgrade Docker there")
	}
	for k, at := range vulnerable {
		if len(at) > 0 {
			v := advisories[k]
			a.Concern(fmt.Sprintf("%s: BuildKit is vulnerable: %s (%s; fixed in Docker %s)", strings.Join(at, ", "), v.what, v.ids, v.fixedIn),
				fmt.Sprintf("upgrade to Docker %s or later, unless the package has the fixes. Until then anyone with push access to an app's repository can exploit it", advisories[len(advisories)-1].fixedIn))
		}
	}
	differ := func(what string, all map[string][]string, then string) {
		if len(all) < 2 {
			return
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(all)) {
			parts = append(parts, k+" on "+strings.Join(all[k], ", "))
		}
		a.Concern(fmt.Sprintf("the nodes have different %s: %s", what, strings.Join(parts, "; ")), then)
	}
	differ("Docker versions", versions, "upgrade the older ones")
	differ("image stores", stores, "this works; one store on all nodes makes their images and errors alike")
}
