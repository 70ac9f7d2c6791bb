package ops

// Labels of a service that are Waggle's: an app's settings and its history.
const (
	LabelRepo       = "waggle.repo"       // clone URL; a push to it deploys the service
	LabelBranch     = "waggle.branch"     // the branch that is deployed; the repository's default if not set
	LabelPaths      = "waggle.paths"      // only pushes that change these paths deploy the service
	LabelContext    = "waggle.context"    // the build context's directory in the repository, its root if not set
	LabelDockerfile = "waggle.dockerfile" // path in the build context, "Dockerfile" if not set
	LabelTarget     = "waggle.target"     // the stage of the Dockerfile that is built
	LabelPlatform   = "waggle.platform"   // os/arch that is built for
	LabelBuildArg   = "waggle.build-arg." // and a name: a build argument; no others are given
	// LabelBuildSecret and a name is a secret that builds are given, sealed with secret_key.
	LabelBuildSecret = "waggle.build-secret."
	LabelApprove     = "waggle.approve"  // "push": a push waits for an approval
	LabelChannel     = "waggle.channel"  // where its deploys are announced
	LabelFreeze      = "waggle.freeze"   // who froze its deploys, and why; on the swarm itself, those of all
	LabelReleases    = "waggle.releases" // JSON list of Release, newest first
	LabelReplicas    = "waggle.replicas" // how many replicas its first deploy starts
	LabelMigrate     = "waggle.migrate"  // "no": /registry migrate leaves it alone
)

// Labels of what else Waggle makes.
const (
	LabelManagedRegistry = "waggle.registry"       // of a service: it is a registry that Waggle runs, of that domain
	LabelManagedLogin    = "waggle.registry.login" // of that service: its sealed password, so that a setup that was cut off goes on
	LabelApp             = "waggle.app"            // of a swarm secret: the app that it is for
	LabelSSH             = "waggle.ssh"            // of a node: user@host:port
	LabelHostKey         = "waggle.hostkey"        // of a node: algorithm and SHA256 fingerprint
)
