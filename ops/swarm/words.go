package swarm

import (
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// cause is what an engine's sentence means. The API has no error codes for these: the text
// depends on the engine's version, its image store and the registry whose error it passes on.
type cause int

const (
	refused            cause = iota + 1 // wrong or missing credentials, or no permission
	unreachable                         // the registry does not answer
	overloaded                          // the registry may work again soon, or broke the connection off
	untrusted                           // the engine does not trust the registry's certificate
	notInRegistry                       // the registry answers, and does not have the image
	wrongPlatform                       // the image is not for this machine's platform
	registryFailed                      // the registry answers with an error of another kind
	notLocal                            // the engine does not have the image that it is to push
	notWhole                            // the engine has a part of the image only, as of other platforms
	notPulled                           // a node has no copy of a task's image and could not pull one
	notAnImage                          // a task was rejected for its volumes or mounts
	outOfSequence                       // an update against a stale version index
	noPreviousSpec                      // the service is on its previous spec already
	notManager                          // the engine is not a manager of a swarm
	notInSwarm                          // the engine is in no swarm
	noLeader                            // the managers do not agree on a leader
	isManager                           // a manager can't leave without force
	logIncomplete                       // a node does not send a task's log
	nameTaken                           // the name already exists
	clientTooOld                        // the engine's minimum API version is newer than the client's
	alreadyJoined                       // the engine is in a swarm
	joinContinues                       // joining continues in the background
	tokenRefused                        // the join token is not the swarm's
	certExpired                         // a certificate is not valid by that machine's clock
	certForeign                         // the manager has the certificate of another swarm
	managerUnreachable                  // the engine does not reach the manager
	addressUnknown                      // the engine does not know which of its addresses to advertise
	liveRestore                         // live-restore is on, which swarm does not support
	portTaken                           // something else has a port
	dockerfileImage                     // a Dockerfile's `# syntax=` asks for an image of Docker Hub
)

// words are parts of the sentences, in lower case. testdata/words.txt has whole sentences
// with the engine and image store that each was seen on.
var words = map[cause][]string{
	refused: {"unauthorized", "no basic auth credentials", "authentication required", "authorization failed", "denied",
		"access forbidden", "unauthenticated:", "not authorized", "authorization token has expired",
		"incorrect username or password", "403 forbidden", "insufficient_scope"},
	unreachable: {"connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
		"dial tcp", "tls handshake timeout", "connection reset", "client.timeout exceeded", "server misbehaving",
		"use of closed network connection", "server sent goaway"},
	overloaded: {"500 internal server error", "502 bad gateway", "503 service unavailable", "504 gateway",
		"too many requests", "toomanyrequests", "pull rate limit", "rate exceeded", ": eof", "unexpected eof", "broken pipe", "blob upload unknown",
		"from registry: unavailable", "service unavailable"},
	untrusted:      {"x509:", "http response to https client", "certificate signed by"},
	notInRegistry:  {"manifest unknown", "name unknown", "repository name not known", "not found"},
	wrongPlatform:  {"no match for platform", "no matching manifest", "does not provide the specified platform"},
	registryFailed: {"unexpected http status", "unexpected status from", "error from registry"},
	notLocal:       {"does not exist locally", "tag does not exist", "no such image"},
	notWhole:       {"content digest", "missing content"},
	// Up to 29.6 a task has only the first; from 29.7 on it has what the pull said.
	notPulled: {"no such image", "failed to resolve reference", "manifest unknown", "manifest for", "name unknown", "unknown: ",
		"error pulling image", "failed to pull", "failed to do request", "failed to copy: ", "failed commit on ref", "failed to unpack image",
		"failed to extract layer", "failed to register layer", "unknown blob", "verification failed for digest", "error unmarshalling content",
		"unable to decode token", "tls: ", "redirects", "cannot be used on this platform"},
	notAnImage: {"volume", "mount ", "failed to copy file info", "mkdir ", "dial unix", "not manually attachable",
		"secret reference", "config reference", "containerconfig"},
	outOfSequence:  {"update out of sequence"},
	noPreviousSpec: {"does not have a previous spec"},
	notManager:     {"not a swarm manager", "not part of a swarm"},
	notInSwarm:     {"not part of a swarm"},
	noLeader: {"does not have a leader", "context deadline exceeded", "lost leader status", "no elected cluster leader",
		"raft: failed to process the request: node is stopped", "not yet part of a raft cluster"},
	isManager:          {"participating as a manager", "encrypted and locked"},
	logIncomplete:      {"incomplete log stream"},
	nameTaken:          {"already exists"},
	clientTooOld:       {"minimum supported api version"},
	alreadyJoined:      {"already part of a swarm"},
	joinContinues:      {"continue in the background"},
	tokenRefused:       {"invalid join token", "valid join token"},
	certExpired:        {"expired or is not yet valid", "certificate has expired"},
	certForeign:        {"does not match fingerprint", "unknown authority", "failed to verify certificate"},
	managerUnreachable: {"connection refused", "no route to host", "network is unreachable", "i/o timeout", "connection error", "no such host", "deadline exceeded"},
	addressUnknown:     {"address to advertise", "advertise address", "system's ip address", "must specify a listening address"},
	liveRestore:        {"live-restore"},
	portTaken:          {"address already in use"},
	dockerfileImage:    {"docker.io/docker/dockerfile"},
}

// notRefused sounds like a refusal by the registry and is one by the kernel or a proxy.
var notRefused = strings.NewReplacer("permission denied", "", "proxy authentication required", "")

// in reports whether an engine's message means the cause.
func (c cause) in(message string) bool {
	message = strings.ToLower(message)
	if c == refused {
		message = notRefused.Replace(message)
	}
	return slices.ContainsFunc(words[c], func(w string) bool { return strings.Contains(message, w) })
}

// pathLike matches a reference, URL or path that has a slash.
var pathLike = regexp.MustCompile(`[^\s]*[\w.\])]/[^\s]*[^\s",:]"?`)

// withoutNames removes references, addresses and paths from a message before it is matched:
// an image that is called "denied" is no refusal.
func withoutNames(message string) string {
	return pathLike.ReplaceAllStringFunc(message, func(found string) string {
		bare := strings.ToLower(strings.TrimLeft(found, `("'`))
		for _, no := range []string{"i/o", "linux/", "windows/"} { // as in "i/o timeout", and platforms
			if strings.HasPrefix(bare, no) {
				return found
			}
		}
		return ""
	})
}

// imageMissing reports whether a task was rejected because its node has no copy of the
// image and could not pull one. Up to 29.6 the engine says so whatever the cause was;
// from 29.7 on it passes on what the registry or the network said. A task is rejected for
// its volumes, too.
func imageMissing(message string) bool {
	text := withoutNames(message)
	if notPulled.in(text) || toRegistry.MatchString(message) {
		return true
	}
	return !notAnImage.in(text) && slices.ContainsFunc([]cause{wrongPlatform, registryFailed, refused, unreachable, overloaded, untrusted},
		func(c cause) bool { return c.in(text) })
}

// toRegistry matches an engine's request to a registry. One to a plugin is a POST.
var toRegistry = regexp.MustCompile(`^(?:Get|Head) "https?://`)

var (
	pinnedTo   = regexp.MustCompile(`@sha256:[0-9a-f]{64}`)
	longDigest = regexp.MustCompile(`sha256:([0-9a-f]{12})[0-9a-f]{52}`)
)

// withoutDigests takes the digests off references, and shortens the others.
func withoutDigests(text string) string {
	return longDigest.ReplaceAllString(pinnedTo.ReplaceAllString(text, ""), "sha256:$1")
}

// pullError puts the cause of a failed pull first and the image last, without its digest:
// what shows a task's error cuts it at the end.
func pullError(message, image string) string {
	message = withoutDigests(clean(message))
	if strings.HasPrefix(strings.ToLower(message), "no such image") {
		return message
	}
	return shortCause(message) + " (image " + withoutDigests(image) + ")"
}

// detours are what engines put before the cause of a failed pull. Newer ones repeat the image
// up to three times.
var detours = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`failed to resolve reference "[^"]*": `,
	`(?:\S+: )?failed to resolve source metadata for \S+: `,
	`failed to do request: `,
	`failed to authorize: `,
	`failed to fetch (?:oauth|anonymous) token: `,
	`failed to copy: `,
	`httpReadSeeker: `,
	`failed open: `,
	`unexpected status from \w+ request to \S+: `,
	`(?:Get|Head|Put|Post) "[^"]*": `,
	`(?:unknown|error from registry): `,
	`could not fetch content descriptor \S+ (?:\(\S+\) )?from remote: `,
	`error pulling image(?: configuration)?: `,
	`\S*/\S*: (?:not found$)?`,
}, "|") + `)`)

// theImage is the image in the middle of such a sentence.
var theImage = regexp.MustCompile(`^(manifest|repository|pull access denied)(?: for)? "?\S*[^\s,"]"?(,| not found)`)

// shortCause removes image names and known prefixes from an engine's message about an image.
func shortCause(message string) string {
	short, more, _ := strings.Cut(withoutDigests(message), "\n")
	for {
		rest := detours.ReplaceAllStringFunc(short, func(found string) string {
			if strings.HasSuffix(found, ": not found") {
				return "not found"
			}
			return ""
		})
		if rest == "" || rest == short {
			break
		}
		short = rest
	}
	short = theImage.ReplaceAllString(short, "$1$2")
	// 28.5 tells a registry's only message twice, in two lines.
	if more = strings.Join(strings.Fields(more), " "); more != "" && more != short {
		short += "; " + more
	}
	return short
}

// pushedDigest matches the last status line of a push. The classic store sends an aux
// record, too; the containerd store does not. Seen from 20.10 to 29: "v1: digest:
// sha256:… size: 527".
var pushedDigest = regexp.MustCompile(`^\S*: digest: (\S+) size: \d+$`)

// digestOfPush returns the digest in a status line of a push, "" for none.
func digestOfPush(status string) string {
	m := pushedDigest.FindStringSubmatch(strings.TrimSpace(status))
	if m == nil {
		return ""
	}
	if d, err := digest.Parse(m[1]); err == nil {
		return d.String()
	}
	return ""
}

// loadBase begins the name of the step in which BuildKit looks a base image up.
const loadBase = "[internal] load metadata for "

// buildPrefixes are what BuildKit puts before what went wrong in a build.
var buildPrefixes = []string{"failed to solve with frontend dockerfile.v0: ", "failed to solve with frontend gateway.v0: ", "failed to solve: ",
	"failed to create LLB definition: ", "failed to build LLB: ", "failed to compute cache key: "}

// checksumOf is what newer engines put before the name of a file that COPY does not find.
var checksumOf = regexp.MustCompile(`^failed to calculate checksum of ref \S+: `)

// ranProcess is how BuildKit, old and new, tells that a RUN failed. It repeats
// the command, which the step's name has already.
var ranProcess = regexp.MustCompile(`(?s)^(?:executor failed running \[.*\]|process ".*" did not complete successfully): (.*)$`)

// noSecret is how BuildKit tells that a mounted secret, which the Dockerfile requires, was
// not given.
var noSecret = regexp.MustCompile(`secret ([A-Za-z0-9_][A-Za-z0-9_.-]*)(?: not found)?: not found`)

// cleanBuild removes from a build's error what says nothing to a person.
func cleanBuild(message string) string {
	for before := ""; before != message; {
		before = message
		message = clean(message)
		for _, p := range buildPrefixes {
			message = strings.TrimPrefix(message, p)
		}
		message = checksumOf.ReplaceAllString(message, "")
	}
	if m := ranProcess.FindStringSubmatch(message); m != nil {
		message = m[1]
	}
	return message
}
