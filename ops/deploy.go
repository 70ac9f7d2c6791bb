package ops

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"waggle/internal/secret"
)

// commitsShown is how many commits of a push its message shows.
const commitsShown = 5

// logLines is how much of a failing task's log a message shows.
const logLines = 30

// Deploy brings a commit to an app: clone, build, push, update; or an image. A
// push asks for it, or somebody by hand.
type Deploy struct {
	App  string `json:"app"`
	Push Push   `json:"push"` // by hand it is made once what was asked for is known

	// Look says that the apps that follow the push were known from a while ago: they
	// are to be looked at again, with the paths that the push changed.
	Look  bool     `json:"look,omitempty"`
	Files []string `json:"files,omitempty"`

	// Hand says that somebody asks for it by hand: for Ref, which is a branch, tag or
	// commit, "" for the branch that the app follows; or for the image From.
	Hand bool   `json:"hand,omitempty"`
	Ref  string `json:"ref,omitempty"`
	From string `json:"from,omitempty"`
	// Copy asks that the image goes to the default push registry first; Source is then
	// the image by its digest.
	Copy   bool   `json:"copy,omitempty"`
	Source string `json:"source,omitempty"`

	// Image is set once it was built and pushed, so that a deploy that was cut
	// off after that does not build again.
	Image string `json:"image,omitempty"`
	// Attempt is set before the release is written.
	Attempt *attempt `json:"attempt,omitempty"`

	effect     Effect
	svc        Service
	release    int
	before     string
	registries Registries
	to         Registry // where the image is pushed; the zero one without a default registry
	login      RegistryLogin
	logins     []RegistryLogin        // for base images
	secrets    map[string]secret.Text // for the build
}

func (*Deploy) Kind() string     { return "deploy" }
func (d *Deploy) Target() string { return d.App }
func (*Deploy) Needs() Role      { return Operator }

// short is the commit as people write it.
func short(commit string) string { return commit[:min(7, len(commit))] }

// what names what is deployed, for people.
func (d *Deploy) what() string {
	if d.From != "" {
		return withoutDigest(d.Image)
	}
	return short(d.Push.After)
}

// Plan says which image and release the app would get.
func (d *Deploy) Plan(ctx context.Context, run *Run) (Plan, error) {
	svc, err := run.app(ctx, d.App)
	if err != nil {
		return Plan{}, err
	}
	d.svc = svc
	if svc.Mode != Replicated && svc.Mode != Global {
		return Plan{}, Errorf(Invalid, "%s is a job (%s), which a push does not deploy", d.App, svc.Mode)
	}
	if d.registries, err = ReadRegistries(ctx, run.Swarm); err != nil {
		return Plan{}, err
	}
	if d.Hand {
		if err = d.checkFrozen(ctx, run); err == nil {
			err = d.find(ctx, run)
		}
	} else if reason := svc.notFollowing(d.Push); reason != "" {
		err = Errorf(Canceled, "%s", reason)
	}
	if err != nil {
		return Plan{}, err
	}
	warnings, err := d.logIn(ctx, run)
	if err != nil {
		return Plan{}, err
	}
	if d.Image == "" && d.From == "" {
		if d.secrets, err = svc.buildSecrets(run.SecretKey); err != nil {
			return Plan{}, err
		}
	}
	releases, err := svc.Releases()
	if err != nil {
		return Plan{}, err
	}
	last, from := 0, svc.Image
	if len(releases) > 0 {
		last = releases[0].Number
	}
	d.before = svc.before(releases)
	undo := ""
	if last > 0 || d.before != "" {
		undo = "/rollback " + d.App
	}
	ran, err := run.ran(ctx, svc, d.Attempt)
	if err != nil {
		return Plan{}, err
	}
	d.effect = svc.effectOf(run.ID, d.Attempt, run.applied || ran, releases, run.before(d.Attempt, func(r Release) bool {
		return r.Image == d.Image && r.Commit == d.Push.After
	}))
	applied := d.effect.State == EffectCurrent
	if applied {
		last--
		from = "the release before"
	}
	d.release = last + 1
	image := withoutDigest(d.Image)
	if image == "" {
		if image, err = d.ref(); err != nil {
			return Plan{}, err
		}
	}
	plan := Plan{Diffs: []Diff{
		{What: "image", From: withoutDigest(from), To: image},
		{What: "release", From: strconv.Itoa(last), To: strconv.Itoa(d.release)},
	}, Warnings: warnings, Undo: undo, Compare: d.Push.Compare, Count: max(d.Push.Count, len(d.Push.Commits))}
	for _, c := range d.Push.Commits[max(0, len(d.Push.Commits)-commitsShown):] {
		c.Message, _, _ = strings.Cut(c.Message, "\n")
		plan.Commits = append(plan.Commits, c)
	}
	if svc.Labels[LabelApprove] == "push" && !d.Hand && d.effect.State == EffectNone {
		plan.Approval = fmt.Sprintf("pushes to %s wait for one; %s pushed this", d.App, d.Push.Pusher)
	}
	if n := svc.firstReplicas(last); n > 0 {
		plan.Diffs = append(plan.Diffs, Diff{What: "replicas", From: "0", To: strconv.Itoa(n)})
	}
	return plan, nil
}

// Effect tells how the deploy's release stands in the swarm.
func (d *Deploy) Effect() Effect { return d.effect }

// ref is the name that the image gets, without its digest.
func (d *Deploy) ref() (string, error) {
	if named, ok := parseImage(d.Source); ok {
		tag := "latest"
		if tagged, ok := named.(reference.Tagged); ok {
			tag = tagged.Tag()
		}
		return d.to.image(d.App, tag)
	}
	return d.to.image(d.App, tag(d.Push.After))
}

// firstReplicas is how many replicas the first deploy of an app starts, 0 when that
// is not for a deploy to say.
func (s Service) firstReplicas(released int) int {
	n, err := strconv.Atoi(s.Labels[LabelReplicas])
	if err != nil || released > 0 || s.Mode != Replicated || s.Replicas != 0 {
		return 0
	}
	return n
}

// logIn finds out where the image goes, and the logins for that and for base
// images. What keeps only base images from being fetched is a warning.
func (d *Deploy) logIn(ctx context.Context, run *Run) (warnings []string, err error) {
	to, pushed := d.registries.Pushed()
	if d.to = to; !pushed && d.Image == "" && d.From == "" {
		if err := onlyHere(ctx, run.Swarm); err != nil {
			return nil, err
		}
	}
	d.logins = nil
	for _, r := range d.registries.List {
		login, err := r.Login(run.SecretKey)
		e := new(Error)
		switch {
		case err != nil && (r.Name == to.Name || !errors.As(err, &e)):
			return nil, err
		case err != nil:
			warnings = append(warnings, e.Sentence+". Private base images from there cannot be fetched.")
			continue
		case r.Name == to.Name:
			d.login = login
		}
		d.logins = append(d.logins, login)
	}
	return warnings, nil
}

// onlyHere refuses an image that is in no registry when there are nodes that
// could not get it.
func onlyHere(ctx context.Context, swarm Swarm) error {
	nodes, err := swarm.Nodes(ctx)
	if err != nil || len(nodes) < 2 {
		return err
	}
	others := "the other node"
	if len(nodes) > 2 {
		others = fmt.Sprintf("the other %d nodes", len(nodes)-1)
	}
	return Errorf(Invalid, "There is no default registry, and %s could not get the image", others).
		Then("`/registry default <name>` chooses one, `/registry add` adds one.")
}

func tag(commit string) string { return commit[:min(12, len(commit))] }

func withoutDigest(image string) string {
	name, _, _ := strings.Cut(image, "@")
	return name
}

// follows says whether a push to this repository could be the service's.
func (s Service) follows(p Push) bool {
	repo := s.Labels[LabelRepo]
	for _, url := range p.RepoURLs {
		if SameRepo(repo, url) {
			return true
		}
	}
	return false
}

// notFollowing says why a push does not deploy the service, "" when it does.
func (s Service) notFollowing(p Push) string {
	if s.Labels[LabelRepo] == "" {
		return fmt.Sprintf("%s is not linked to a repository", s.Name)
	}
	if !s.follows(p) {
		return fmt.Sprintf("%s is linked to another repository", s.Name)
	}
	return s.onOther(p)
}

// onOther says why a push to the service's repository does not deploy it: it is
// to another branch; "" when it is not.
func (s Service) onOther(p Push) string {
	branch := s.Labels[LabelBranch]
	if branch == "" {
		branch = p.Default
	}
	if branch == "" {
		branch = "main"
	}
	if branch != p.Branch {
		reason := fmt.Sprintf("%s is deployed from %s, and the push is to %s", s.Name, branch, p.Branch)
		if s.Labels[LabelBranch] == "" {
			reason += fmt.Sprintf("; the label %s sets another branch", LabelBranch)
		}
		return reason
	}
	return ""
}

// Prepare makes the image. Nothing of the swarm changes.
func (d *Deploy) Prepare(ctx context.Context, run *Run) error {
	if d.Image != "" {
		return nil
	}
	ref, err := d.ref()
	if err != nil {
		return err
	}
	if d.Source != "" {
		return d.copy(ctx, run, ref)
	}
	release, err := run.Builds.Take(ctx, func(n int) {
		run.update(func(s *Status) { s.State, s.Note = Waiting, fmt.Sprintf("waits for other builds, as number %d", n) })
	})
	if err != nil {
		return err
	}
	defer release()
	var dir string
	remove := func() {}
	defer func() { remove() }()
	err = run.Step("clone", func(detail func(string)) (err error) {
		ctx, cancel := context.WithTimeout(ctx, run.BuildTimeout)
		defer cancel()
		err = run.whileAway(ctx, run.Now().Add(run.BuildTimeout), func(ctx context.Context) error {
			// The clone URL is the app's own label: a payload only says that
			// something was pushed, never where to fetch from.
			checkout, undo, err := run.Source.Checkout(ctx, d.svc.Labels[LabelRepo], d.Push.After, d.Push.Branch)
			if err == nil {
				dir, remove = checkout, undo
				detail(short(d.Push.After))
			}
			return err
		})
		return d.timedOut(ctx, err, "Cloning", run.BuildTimeout)
	})
	if err != nil {
		return err
	}
	how, err := d.svc.define(dir)
	if err != nil {
		return err
	}
	if how.Image != "" { // nothing to build, nor to push
		err = run.whileAway(ctx, run.Now().Add(run.BuildTimeout), func(ctx context.Context) (err error) {
			d.Image, err = d.registries.pin(ctx, run, how.Image)
			return err
		})
		if err == nil {
			err = run.Save(ctx)
		}
		return err
	}
	err = run.Step("build", func(detail func(string)) error {
		ctx, cancel := context.WithTimeout(ctx, run.BuildTimeout)
		defer cancel()
		req := BuildRequest{Dir: dir, Context: how.Context, Dockerfile: how.Dockerfile, Text: how.Text, Tag: ref, Logins: d.logins,
			Args: d.svc.buildArgs(), Secrets: d.secrets, Target: d.svc.Labels[LabelTarget], Platform: d.svc.Labels[LabelPlatform],
			Cache: d.cache(ref), KeepCache: d.to.Domain != ""}
		var last time.Time
		var log buildLog
		mask := d.masker()
		err := run.whileAway(ctx, run.Now().Add(run.BuildTimeout), func(ctx context.Context) error {
			log = buildLog{}
			return run.Swarm.Build(ctx, req, func(line string) {
				line = mask.Replace(line)
				run.Log.Debug("build", "line", line)
				log.add(line)
				if now := run.Now(); now.Sub(last) >= time.Second {
					last = now
					detail(line)
				}
			})
		})
		detail("")
		err = d.timedOut(ctx, err, "The build", run.BuildTimeout)
		if e := new(Error); errors.As(err, &e) && e.Code == Failed {
			e.Sentence, e.Log, e.Whole = mask.Replace(e.Sentence), mask.Replace(e.Log), log.String()
			if e.Err != nil { // it is for the log, which nobody's secrets are for
				e.Err = errors.New(mask.Replace(e.Err.Error()))
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if d.to.Domain != "" {
		err = run.Step("push", func(detail func(string)) error {
			ctx, cancel := context.WithTimeout(ctx, run.BuildTimeout)
			defer cancel()
			digest, err := run.push(ctx, ref, d.login)
			if err == nil {
				ref += "@" + digest
				detail(digest[:min(19, len(digest))])
			}
			return d.timedOut(ctx, err, "The push to "+d.to.Domain, run.BuildTimeout)
		})
		if err != nil {
			return err
		}
	}
	d.Image = ref
	if err := run.Save(ctx); err != nil {
		run.Log.Warn("after a restart this image would be built again", "err", err)
	}
	return nil
}

// cache is the image whose layers the build takes from the registry: the one that the app
// runs now, if it was pushed to where the new one goes. Another manager may have built it.
func (d *Deploy) cache(ref string) string {
	runs, ok := parseImage(d.svc.Image)
	next, ok2 := parseImage(ref)
	if _, pinned := runs.(reference.Digested); !ok || !ok2 || !pinned || d.to.Domain == "" || runs.Name() != next.Name() {
		return ""
	}
	return d.svc.Image
}

// buildLogMost is how much of a build's log is kept, in bytes.
const buildLogMost = 4 << 20

// buildLog keeps the lines of a build: of a very long log the end.
type buildLog struct {
	lines []string
	size  int
	cut   bool
}

func (l *buildLog) add(line string) {
	l.lines = append(l.lines, line)
	for l.size += len(line) + 1; l.size > buildLogMost && len(l.lines) > 1; l.cut = true {
		l.size -= len(l.lines[0]) + 1
		l.lines = l.lines[1:]
	}
}

func (l *buildLog) String() string {
	text := strings.Join(l.lines, "\n")
	if l.cut {
		text = "… (the beginning is cut)\n" + text
	}
	return text
}

// masker replaces in a build's log what must not be seen: build secrets, passwords of
// registries, and what the app's environment hides.
func (d *Deploy) masker() *strings.Replacer {
	pairs := maskOf(d.secrets)
	for _, l := range d.logins {
		if len(l.Auth.Password) >= 4 {
			pairs = append(pairs, l.Auth.Password.Reveal(), "<password of "+l.Domain+">")
		}
	}
	return strings.NewReplacer(append(pairs, d.svc.secrets()...)...)
}

// timedOut turns the error of a step that ran into its deadline into a sentence. One of whileAway,
// Unavailable, says more.
func (d *Deploy) timedOut(ctx context.Context, err error, what string, limit time.Duration) error {
	if err != nil && CodeOf(err) != Unavailable && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Code: Failed, Sentence: fmt.Sprintf("%s took longer than %s and was stopped", what, limit),
			Next: "build.timeout sets how long it may take.", Err: err}
	}
	return err
}

// Apply sets the image and the release label in one update.
func (d *Deploy) Apply(ctx context.Context, run *Run) error {
	releases, err := d.svc.Releases()
	if err != nil {
		return err
	}
	label, err := addRelease(releases, Release{Number: d.release, Image: d.Image, Commit: d.Push.After, By: run.Actor.Name, At: run.Now().UTC(), Op: run.ID, Before: d.before})
	if err != nil {
		return err
	}
	auth, err := d.registries.authFrom(d.svc.Image, d.Image, run.SecretKey)
	if err != nil {
		return err
	}
	change := Change{Image: d.Image, Labels: map[string]string{LabelReleases: label}, Rollback: true, Auth: auth}
	if n := d.svc.firstReplicas(d.release - 1); n > 0 {
		change.Replicas, change.Unset = &n, []string{LabelReplicas}
	}
	d.Attempt = &attempt{Version: d.svc.Version, Number: d.release, Image: d.Image, At: run.Now(), WentBack: d.svc.wentBack()}
	if err := run.Save(ctx); err != nil {
		return redisAway(err)
	}
	_, err = run.Swarm.UpdateService(ctx, d.svc, change)
	return err
}

// Converge follows the rolling update to its end.
func (d *Deploy) Converge(ctx context.Context, run *Run) (string, error) {
	var got Replicas
	err := run.Step("update", func(func(string)) (err error) {
		again := "Mend it and push again."
		if d.From != "" {
			again = "Deploy another image."
		}
		got, err = run.followUpdate(ctx, d.svc.Name, d.Image, again)
		return err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s runs release %d (%s), %d of %d", d.App, d.release, d.what(), got.Running, got.Wanted), nil
}
