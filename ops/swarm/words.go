package swarm

import (
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// cause is what an engine's words mean. The API has no codes for these: they differ by
// the engine's version, by its image store and by the registry that it repeats.
type cause int

const (
	refused         cause = iota + 1 // wrong or missing credentials, or something that they may not see
	unreachable                      // the registry does not answer
	overloaded                       // the registry may work again soon, or went away in the middle
	untrusted                        // the engine does not trust the registry's connection
	notInRegistry                    // the registry answers, and does not have the image
	notLocal                         // the engine does not have the image that it is to push
	notPulled                        // a task's node has no copy of the image and could not pull one
	outOfSequence                    // a write was made on another version than the current one
	noPreviousSpec                   // the service is on its previous spec already
	notManager                       // the engine is no manager of a swarm
	notInSwarm                       // the engine is in no swarm
	noLeader                         // the managers do not agree on a leader
	isManager                        // a manager does not leave a swarm without force
	logIncomplete                    // a node does not send a task's log
	nameTaken                        // there is one of that name
	clientTooOld                     // the engine speaks no version of the API as old as the client's
	alreadyJoined                    // the engine is in a swarm
	joinContinues                    // the engine goes on joining by itself
	tokenRefused                     // the join token is not the swarm's
	certExpired                      // a certificate is not valid by that machine's clock
	certForeign                      // the manager has the certificate of another swarm
	managerAway                      // the engine does not reach the manager
	addressUnknown                   // the engine does not know which of its addresses to advertise
	liveRestore                      // the engine has live-restore on, which swarm does not take
	portTaken                        // something else has a port
	dockerfileImage                  // a Dockerfile's `# syntax=` asks for an image of Docker Hub
)

// words are what engines say, in lower case. testdata/words.txt has the whole sentences,
// with the engine and image store that each was seen on; a test reads every one of them.
var words = map[cause][]string{
	refused: {"unauthorized", "no basic auth credentials", "authentication required", "authorization failed",
		"denied", "incorrect username or password", "401 unauthorized", "403 forbidden", "insufficient_scope"},
	unreachable: {"connection refused", "no such host", "i/o timeout", "no route to host", "network is unreachable",
		"dial tcp", "tls handshake timeout", "connection reset", "client.timeout exceeded", "server misbehaving"},
	overloaded: {"500 internal server error", "502 bad gateway", "503 service unavailable", "504 gateway",
		"429 too many requests", "toomanyrequests", ": eof", "unexpected eof", "broken pipe", "blob upload unknown"},
	untrusted:     {"x509:", "http response to https client", "certificate signed by"},
	notInRegistry: {"manifest unknown", "name unknown", ": not found"},
	notLocal:      {"does not exist locally", "tag does not exist", "no such image"},
	notPulled: {"no such image", "failed to resolve reference", "pull access denied", "manifest unknown", "manifest for",
		"no matching manifest", "error pulling image", "failed to pull", "failed to do request", "failed to copy"},
	outOfSequence:   {"update out of sequence"},
	noPreviousSpec:  {"does not have a previous spec"},
	notManager:      {"not a swarm manager", "not part of a swarm"},
	notInSwarm:      {"not part of a swarm"},
	noLeader:        {"does not have a leader", "context deadline exceeded"},
	isManager:       {"participating as a manager", "encrypted and locked"},
	logIncomplete:   {"incomplete log stream"},
	nameTaken:       {"already exists"},
	clientTooOld:    {"minimum supported api version"},
	alreadyJoined:   {"already part of a swarm"},
	joinContinues:   {"continue in the background"},
	tokenRefused:    {"invalid join token", "valid join token"},
	certExpired:     {"expired or is not yet valid", "certificate has expired"},
	certForeign:     {"does not match fingerprint", "unknown authority", "failed to verify certificate"},
	managerAway:     {"connection refused", "no route to host", "network is unreachable", "i/o timeout", "connection error", "no such host", "deadline exceeded"},
	addressUnknown:  {"address to advertise", "advertise address", "system's ip address", "must specify a listening address"},
	liveRestore:     {"live-restore"},
	portTaken:       {"address already in use"},
	dockerfileImage: {"docker.io/docker/dockerfile"},
}

// in reports whether an engine's message means the cause.
func (c cause) in(message string) bool {
	message = strings.ToLower(message)
	for _, w := range words[c] {
		if strings.Contains(message, w) {
			return true
		}
	}
	return false
}

// name is a reference, an address or a path in a message, with what ends it.
var name = regexp.MustCompile(`"?[^\s"]*[\w.\])]/[^\s"]*[^\s",:]"?`)

// withoutNames removes references, addresses and paths from a message: an image that is
// called "denied" is no refusal.
func withoutNames(message string) string {
	return name.ReplaceAllStringFunc(message, func(found string) string {
		for _, no := range []string{"i/o", "linux/", "windows/"} { // as in "i/o timeout", and platforms
			if strings.HasPrefix(strings.ToLower(found), no) {
				return found
			}
		}
		return ""
	})
}

// imageMissing reports whether a task was rejected because its node has no copy of the
// image and could not pull one. Up to 29.6 the engine says so whatever the cause was;
// from 29.7 on it repeats what the registry or the network said.
func imageMissing(message string) bool {
	message = withoutNames(message)
	for _, c := range []cause{notPulled, refused, unreachable, overloaded, untrusted} {
		if c.in(message) {
			return true
		}
	}
	return false
}

var (
	digestInText = regexp.MustCompile(`@sha256:[0-9a-f]{64}`)
	loneColons   = regexp.MustCompile(`(?:\s*:)+(\s|$)`)
	causePrefix  = regexp.MustCompile(`^(?:failed to resolve reference|failed to resolve source metadata for|failed to do request|unexpected status from \w+ request to|Get|Head|error pulling image): `)
)

// pullError puts the cause of a failed pull first, and the image behind it without its
// digest: what shows a task's error cuts it at the end.
func pullError(message, image string) string {
	message = clean(message)
	image = digestInText.ReplaceAllString(image, "")
	if strings.HasPrefix(strings.ToLower(message), "no such image") {
		return digestInText.ReplaceAllString(message, "")
	}
	return shortCause(message) + " (pulling " + image + ")"
}

// shortCause takes the names and the steps that led there off an engine's message about an
// image, which newer engines repeat up to three times before they come to the cause.
func shortCause(message string) string {
	short := strings.NewReplacer("manifest for not found", "manifest not found", " for ,", ",").
		Replace(strings.Join(strings.Fields(loneColons.ReplaceAllString(withoutNames(message), ":$1")), " "))
	for before := ""; before != short; {
		before, short = short, causePrefix.ReplaceAllString(strings.Trim(short, ": "), "")
	}
	if short == "" {
		return digestInText.ReplaceAllString(message, "")
	}
	return short
}

// pushedDigest is how both image stores end a push; the classic one repeats it in an aux
// record. Seen from 20.10 to 29: "v1: digest: sha256:… size: 527".
var pushedDigest = regexp.MustCompile(`^\S*: digest: (\S+) size: \d+$`)

// digestOfPush returns the digest that a line of a push tells, "" for none.
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
