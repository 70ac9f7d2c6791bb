package ops

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"
)

// asks is how many questions to registries are under way at once.
const asks = 8

// RegistryCheck tries all registries, and looks for every image in use.
type RegistryCheck struct{}

func (RegistryCheck) Needs() Role { return Viewer }

// Ask tries them from this manager.
func (RegistryCheck) Ask(ctx context.Context, r *Runner, _ Actor) (Answer, error) {
	rs, services, err := registriesAndServices(ctx, r.Env.Swarm)
	if err != nil {
		return Answer{}, err
	}
	services = slices.DeleteFunc(services, func(s Service) bool { return !s.runs() || s.Image == "" || s.unbuilt() })
	tasks, err := r.Env.Swarm.NodeTasks(ctx, "")
	if err != nil {
		return Answer{}, err
	}
	nodes, err := r.Env.Swarm.Nodes(ctx)
	if err != nil {
		return Answer{}, err
	}
	trials, found := make([]Trial, len(rs.List)), make([]error, len(services))
	var g errgroup.Group
	g.SetLimit(asks)
	for i, reg := range rs.List {
		g.Go(func() error {
			login, err := reg.Login(r.Env.SecretKey)
			if err != nil {
				trials[i].Err = err
				return nil
			}
			trials[i] = r.Env.Images.Try(ctx, login, reg.Push)
			return nil
		})
	}
	for i, s := range services {
		g.Go(func() error {
			found[i] = r.Env.find(ctx, rs, s.Image)
			return nil
		})
	}
	_ = g.Wait() // none returns an error

	var a Answer
	good, there := 0, 0
	rows := [][]string{{"REGISTRY", "WHERE", "REACHABLE", "LOGIN", "PUSH"}}
	for i, reg := range rs.List {
		t := trials[i]
		if t.Err == nil {
			good++
		} else {
			then := ""
			if e, ok := t.Err.(*Error); ok {
				then = e.Next
			}
			a.Concerns = append(a.Concerns, Concern{What: reg.Name + ": " + sentenceOf(t.Err), Then: then, Fails: true})
		}
		for _, w := range t.Warnings {
			a.Concern(reg.Name+": "+w, "")
		}
		login, push := yesNo(t.LoggedIn), yesNo(t.MayPush)
		if reg.Username == "" {
			login = "none"
		}
		if !reg.Push {
			push = "off"
		}
		rows = append(rows, []string{reg.Name, reg.where(), yesNo(t.Reachable), login, push})
	}
	if len(rs.List) > 0 {
		a.Parts = append(a.Parts, Part{Title: "Registries, from this manager", Table: rows})
	}
	images := [][]string{{"APP", "IMAGE", "THERE", "NOT PULLED BY"}}
	for i, s := range services {
		text := "yes"
		switch err := found[i]; CodeOf(err) {
		case "":
			there++
			if named, ok := parseImage(s.Image); ok {
				if _, pinned := named.(reference.Digested); !pinned {
					text = "yes, not pinned"
				}
			}
		case NotFound:
			text = "no"
			a.Concern(fmt.Sprintf("%s: %s is in no registry, so a node without it cannot run it", s.Name, withoutDigest(s.Image)), "`/registry migrate` brings it to the default one")
		default:
			text = "cannot tell"
			a.Concern(fmt.Sprintf("%s: whether %s is there cannot be told: %s", s.Name, withoutDigest(s.Image), sentenceOf(err)), "")
		}
		at, why := notPulled(s, tasks, nodes)
		if len(at) > 0 {
			a.Concern(fmt.Sprintf("%s could not pull the image of %s: %s", strings.Join(at, ", "), s.Name, why), "")
		}
		images = append(images, []string{s.Name, shortImage(s.Image), text, strings.Join(at, ", ")})
	}
	if len(services) > 0 {
		a.Parts = append(a.Parts, Part{Title: "Images in use", Table: images})
	}
	a.Head = fmt.Sprintf("%d of %d registries work; %d of %s found", good, len(rs.List), there, many(len(services), "image"))
	rs.concerns(nodes, r.Env.SecretKey, &a)
	return a, nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// shortImage is an image with the beginning of its digest.
func shortImage(image string) string {
	name, digest, ok := strings.Cut(image, "@")
	if !ok {
		return image
	}
	return name + "@" + digest[:min(19, len(digest))]
}

// find looks for an image where it comes from: by its digest when it is pinned.
func (e Env) find(ctx context.Context, rs Registries, image string) error {
	login, err := e.loginFor(rs, image)
	if err != nil {
		return err
	}
	_, err = e.Images.Digest(ctx, login, image)
	return err
}

// loginFor returns what it takes to pull an image: nothing but its domain when no
// registry holds it.
func (e Env) loginFor(rs Registries, image string) (RegistryLogin, error) {
	if r, ok := rs.Of(image); ok {
		return r.Login(e.SecretKey)
	}
	named, ok := parseImage(image)
	if !ok {
		return RegistryLogin{}, Errorf(NotFound, "%s has no name to look for", image)
	}
	return RegistryLogin{Domain: normalDomain(reference.Domain(named))}, nil
}

// notPulled are the nodes whose last task of the service's image found no image,
// and why.
func notPulled(s Service, tasks []Task, nodes []Node) (at []string, why string) {
	newest := map[string]Task{}
	for _, t := range tasks {
		if t.ServiceID != s.ID || t.NodeID == "" || t.Image != s.Image {
			continue
		}
		if old, ok := newest[t.NodeID]; !ok || t.Created.After(old.Created) {
			newest[t.NodeID] = t
		}
	}
	names := map[string]string{}
	for _, n := range nodes {
		names[n.ID] = n.Hostname
	}
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		if t := newest[id]; t.ImageMissing {
			at, why = append(at, orNone(names[id])), t.why()
		}
	}
	slices.Sort(at)
	return at, why
}
