package ops

import (
	"context"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"
)

// LocalImage is one image on one engine.
type LocalImage struct {
	ID    string
	Names []string // with tags or digests, as they were pulled or built
	Size  int64    // bytes, shared layers counted too
	Used  bool     // by a container, running or not
}

// Images are the images of one engine.
type Images interface {
	// Images lists those with a name.
	Images(ctx context.Context) ([]LocalImage, error)
	// RemoveImage takes one name off an image, and removes it with its last. An image
	// that a container uses stays, with an error.
	RemoveImage(ctx context.Context, name string) error
}

// AllNodes names all nodes where one could be named.
const AllNodes = "all"

// NodeClean removes old images of apps from a node, or from all that Waggle
// reaches: its own manager's by the engine, others over SSH. Images that a release
// or a service needs stay, and so does everything that is no app's.
type NodeClean struct {
	Node string `json:"node"` // or AllNodes

	node    Node // unless it is AllNodes
	engines []cleaned
}

// cleaned is one engine that is cleaned.
type cleaned struct {
	node Node
	Images
	names []string // to be removed
	count int
	bytes int64
}

func (*NodeClean) Kind() string { return "node-clean" }
func (c *NodeClean) Target() string {
	if c.Node == AllNodes {
		return "all nodes"
	}
	return c.Node
}
func (*NodeClean) Needs() Role { return Admin }

// Plan looks at the images of each node.
func (c *NodeClean) Plan(ctx context.Context, run *Run) (Plan, error) {
	nodes, err := run.Swarm.Nodes(ctx)
	if err != nil {
		return Plan{}, err
	}
	if c.Node != AllNodes {
		node, _, err := findNode(ctx, run.Swarm, c.Node)
		if err != nil {
			return Plan{}, err
		}
		c.node, nodes = node, []Node{node}
	}
	cluster, err := run.Swarm.Cluster(ctx)
	if err != nil {
		return Plan{}, err
	}
	services, err := run.Swarm.Services(ctx)
	if err != nil {
		return Plan{}, err
	}
	need := neededImages(services)
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	found, problems := make([]cleaned, len(nodes)), make([]error, len(nodes))
	var looks errgroup.Group
	looks.SetLimit(8)
	servers := make([]Server, len(nodes))
	for i, n := range nodes {
		looks.Go(func() error {
			e := cleaned{node: n, Images: run.Swarm}
			if n.ID != cluster.Self {
				server, err := run.connect(ctx, n)
				if problems[i] = err; err != nil {
					return nil
				}
				servers[i], e.Images = server, server
			}
			problems[i] = e.look(ctx, need)
			found[i] = e
			return nil
		})
	}
	_ = looks.Wait() // what went wrong is in problems
	for _, s := range servers {
		if s != nil {
			run.Defer(func() { _ = s.Close() }) // nothing is lost with it
		}
	}
	plan := Plan{Diffs: []Diff{{What: "old images on " + c.Locks()[0].Name, From: "kept", To: "removed"}}}
	c.engines = nil
	for i, e := range found {
		if problems[i] != nil {
			plan.Warnings = append(plan.Warnings, fmt.Sprintf("%s is left out (%s): type `docker image prune --all` there; what a release needs of it is pulled again", nodes[i].Hostname, sentenceOf(problems[i])))
			continue
		}
		c.engines = append(c.engines, e)
		plan.Facts = append(plan.Facts, fmt.Sprintf("%s: %s, %s", e.node.Hostname, many(e.count, "old image"), bytesText(e.bytes)))
	}
	plan.Facts = append(plan.Facts, "images that a release, a service or a container needs stay; so does what is no app's")
	return plan, nil
}

// needed are the images that must stay, and the repositories that are apps'.
type needed struct {
	images  map[string]bool // name:tag and name@digest
	digests map[string]bool
	repos   map[string]bool // names
}

func neededImages(services []Service) needed {
	n := needed{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	keep := func(image string) {
		named, ok := parseImage(image)
		if !ok {
			return
		}
		if tagged, ok := named.(reference.Tagged); ok {
			n.images[named.Name()+":"+tagged.Tag()] = true
		}
		if digested, ok := named.(reference.Digested); ok {
			n.images[named.Name()+"@"+digested.Digest().String()] = true
			n.digests[digested.Digest().String()] = true
		}
	}
	app := func(image string) {
		if named, ok := parseImage(image); ok {
			n.repos[named.Name()] = true
		}
	}
	for _, s := range services {
		images, _ := s.neededImages() // a label that can't be read names none
		for _, image := range images {
			keep(image)
		}
		releases := releasesOf(s)
		if len(releases) > 0 {
			app(s.Image)
		}
		for _, r := range releases {
			app(r.Image)
		}
	}
	return n
}

// old reports whether an image belongs to an app and nothing needs it. In the containerd image
// store the image id is the registry's digest, an image that swarm pulled is named
// name:tag@digest, and its digest is listed under one repository only.
func (n needed) old(i LocalImage) bool {
	if i.Used || n.digests[i.ID] {
		return false
	}
	apps := false
	for _, name := range i.Names {
		named, ok := parseImage(name)
		if !ok {
			return false
		}
		key := named.String()
		if digested, ok := named.(reference.Digested); ok {
			key = named.Name() + "@" + digested.Digest().String()
		}
		app := n.repos[named.Name()]
		if _, tagged := named.(reference.Tagged); n.images[key] || tagged && !app {
			return false // needed, or tagged as something that is no app's
		}
		apps = apps || app
	}
	return apps
}

func (e *cleaned) look(ctx context.Context, need needed) error {
	images, err := e.Images.Images(ctx)
	if err != nil {
		return err
	}
	for _, i := range images {
		if need.old(i) {
			e.names = append(e.names, i.Names...)
			e.count++
			e.bytes += i.Size
		}
	}
	return nil
}

// Apply has nothing of the swarm to write.
func (*NodeClean) Apply(context.Context, *Run) error { return nil }

// Converge removes the images, node by node. One that came into use meanwhile stays.
func (c *NodeClean) Converge(ctx context.Context, run *Run) (string, error) {
	var freed int64
	gone, kept := 0, 0
	for _, e := range c.engines {
		if len(e.names) == 0 {
			continue
		}
		err := run.Step(e.node.Hostname, func(detail func(string)) error {
			for _, name := range e.names {
				if err := e.RemoveImage(ctx, name); err != nil {
					if ctx.Err() != nil {
						return err
					}
					kept++
					run.Log.Info("an old image stays", "node", e.node.Hostname, "image", name, "err", err)
				}
			}
			detail(fmt.Sprintf("%s, %s", many(e.count, "image"), bytesText(e.bytes)))
			return nil
		})
		if err != nil {
			return "", err
		}
		gone, freed = gone+e.count, freed+e.bytes
	}
	text := fmt.Sprintf("%s, %s at most, removed from %s", many(gone, "old image"), bytesText(freed), many(len(c.engines), "node"))
	if kept > 0 {
		text += fmt.Sprintf("; %s stayed, in use meanwhile", many(kept, "name"))
	}
	return strings.TrimSpace(text), nil
}
