package bot

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"waggle/ops"
)

// nodeCommands are the rows about servers and nodes.
func nodeCommands() []Command {
	node := func(verb, short, to string) Command {
		return Command{
			Name: "/node", Verb: verb, Usage: "<node> [--dry-run]", Short: short, Example: []string{"/node " + verb + " n2"},
			New: func() ops.Operation { return &ops.NodeAvailability{To: to} },
			Parse: func(args Args) (ops.Operation, error) {
				name, err := parseNode(verb, args)
				return &ops.NodeAvailability{Node: name, To: to}, err
			},
		}
	}
	role := func(verb, short string, manager bool) Command {
		return Command{
			Name: "/node", Verb: verb, Usage: "<node> [--dry-run]", Short: short, Example: []string{"/node " + verb + " n2"},
			New: func() ops.Operation { return &ops.NodeRole{Manager: manager} },
			Parse: func(args Args) (ops.Operation, error) {
				name, err := parseNode(verb, args)
				return &ops.NodeRole{Node: name, Manager: manager}, err
			},
		}
	}
	return []Command{
		{
			Name: "/join-node", Usage: "<address> [worker|manager] [--user u] [--port p] [--advertise addr] [--no-registry] [--dry-run]",
			Short:   "Make a server a node of this swarm, over SSH",
			Example: []string{"/join-node 10.0.0.12", "/join-node db.example.com manager --user deploy --port 2222"},
			Flags:   []string{"no-registry"}, Options: []string{"user", "port", "advertise"},
			New:   func() ops.Operation { return new(ops.NodeJoin) },
			Parse: parseJoin,
		},
		{
			Name: "/join-node", Verb: "key",
			Short:   "Show the key that lets Waggle log in to a new server",
			Example: []string{"/join-node key"},
			Ask:     func(args Args) (ops.Question, error) { return ops.JoinKey{}, none("/join-node key", args) },
		},
		{
			Name: "/join-node", Verb: "command", Usage: "[worker|manager]",
			Short:   "Show the command that joins a server by hand",
			Example: []string{"/join-node command", "/join-node command manager"},
			Ask: func(args Args) (ops.Question, error) {
				role, err := parseRole("/join-node command", args.Words)
				return ops.JoinCommand{Manager: role == "manager"}, err
			},
		},
		{
			Name: "/join-node", Verb: "rotate", Usage: "[worker|manager] [--dry-run]",
			Short:   "Make new join tokens; the old ones end",
			Example: []string{"/join-node rotate", "/join-node rotate worker"},
			New:     func() ops.Operation { return new(ops.TokenRotation) },
			Parse: func(args Args) (ops.Operation, error) {
				role, err := parseRole("/join-node rotate", args.Words)
				return &ops.TokenRotation{Role: role}, err
			},
		},
		{
			Name: "/node", Verb: "list",
			Short:   "All nodes, and what is wrong with them",
			Example: []string{"/node list"},
			Ask:     func(args Args) (ops.Question, error) { return ops.NodeList{}, none("/node list", args) },
		},
		{
			Name: "/node", Verb: "show", Usage: "<node>",
			Short:   "One node: its tasks, labels and resources",
			Example: []string{"/node show n2"},
			Ask: func(args Args) (ops.Question, error) {
				name, err := parseNode("show", args)
				return ops.NodeShow{Node: name}, err
			},
		},
		node("drain", "Move all tasks off a node", ops.Drain),
		node("activate", "Let a node take tasks again", ops.Active),
		node("pause", "Let a node keep its tasks and take no new ones", ops.Pause),
		role("promote", "Make a node a manager", true),
		role("demote", "Make a manager a worker", false),
		{
			Name: "/node", Verb: "remove", Usage: "<node> [--force] [--dry-run]",
			Short:   "Take a node out of the swarm",
			Example: []string{"/node remove n2", "/node remove n2 --force"},
			Flags:   []string{"force"},
			New:     func() ops.Operation { return new(ops.NodeRemove) },
			Parse: func(args Args) (ops.Operation, error) {
				name, err := parseNode("remove", args)
				return &ops.NodeRemove{Node: name, Force: args.Flags["force"]}, err
			},
		},
		{
			Name: "/node", Verb: "clean", Usage: "<node>|all [--dry-run]",
			Short:   "Remove apps' old images that no release needs",
			Example: []string{"/node clean n2", "/node clean all"},
			New:     func() ops.Operation { return new(ops.NodeClean) },
			Parse: func(args Args) (ops.Operation, error) {
				name, err := parseNode("clean", args)
				return &ops.NodeClean{Node: name}, err
			},
		},
		{
			Name: "/node", Verb: "label", Usage: "<node> <key>=<value>… <key>-… [--dry-run]",
			Short:   "Set a node's labels, or remove them (key-)",
			Example: []string{"/node label n2 disk=ssd", "/node label n2 zone=b disk-"},
			New:     func() ops.Operation { return new(ops.NodeLabel) },
			Parse:   parseNodeLabel,
		},
	}
}

// none refuses words where a command takes none.
func none(command string, args Args) error {
	if len(args.Words) == 0 {
		return nil
	}
	return ops.Errorf(ops.Invalid, "%s takes nothing, and was given %s", command, count(args.Words))
}

// nodeName is a host name, an address or an id.
var nodeName = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_.:a-zA-Z0-9]{0,251}[a-zA-Z0-9])?$`)

func parseNode(verb string, args Args) (string, error) {
	if len(args.Words) != 1 {
		return "", ops.Errorf(ops.Invalid, "/node %s takes one node, and was given %s", verb, count(args.Words))
	}
	return parseNodeName(args.Words[0])
}

func parseNodeName(word string) (string, error) {
	if !nodeName.MatchString(word) {
		return "", ops.Errorf(ops.Invalid, "%q is no node's name, address or id", cut(word, 60)).Then("`/node list` shows them.")
	}
	return word, nil
}

// parseRole reads worker, manager or nothing.
func parseRole(command string, words []string) (string, error) {
	if len(words) == 0 {
		return "", nil
	}
	if len(words) > 1 {
		return "", ops.Errorf(ops.Invalid, "%s takes a role, and was given %s", command, count(words))
	}
	switch words[0] {
	case "worker", "manager":
		return words[0], nil
	}
	return "", ops.Errorf(ops.Invalid, "%q is no role: a node is a worker or a manager", cut(words[0], 60))
}

var (
	hostName = regexp.MustCompile(`^(?i:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\.)*(?i:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)$`)
	userName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]{0,31}$`)
)

func parseJoin(args Args) (ops.Operation, error) {
	if len(args.Words) == 0 {
		return nil, ops.Errorf(ops.Invalid, "/join-node needs the address of the server").
			Then("`/join-node key` shows how to let Waggle in there first.")
	}
	host, err := parseHost(args.Words[0])
	if err != nil {
		return nil, err
	}
	role, err := parseRole("/join-node", args.Words[1:])
	if err != nil {
		return nil, err
	}
	j := &ops.NodeJoin{Server: ops.Address{Host: host, User: args.Options["user"]}, Manager: role == "manager",
		Advertise: args.Options["advertise"], NoRegistry: args.Flags["no-registry"]}
	if u := j.Server.User; u != "" && !userName.MatchString(u) {
		return nil, ops.Errorf(ops.Invalid, "%q is no user's name on a server", cut(u, 60))
	}
	if p, given := args.Options["port"]; given {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return nil, ops.Errorf(ops.Invalid, "%q is no port: ports are 1 to 65535", cut(p, 20))
		}
		j.Server.Port = n
	}
	if a := j.Advertise; a != "" {
		ip, err := netip.ParseAddr(strings.Trim(a, "[]"))
		if err != nil || ip.Zone() != "" || !usable(ip) {
			return nil, ops.Errorf(ops.Invalid, "%q is no address that other nodes can dial", cut(a, 60)).
				Then("Give the server's own IPv4 or IPv6 address, without a port.")
		}
		j.Advertise = ip.String()
	}
	return j, nil
}

func usable(ip netip.Addr) bool {
	return !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parseHost reads an IPv4 or IPv6 address or a name, and nothing around it.
func parseHost(word string) (string, error) {
	bad := ops.Errorf(ops.Invalid, "%q is no address of a server", cut(word, 60))
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(word, "["), "]")); err == nil {
		if !usable(ip) || ip.Zone() != "" {
			return "", bad.Then("Give the address by which this manager reaches it.")
		}
		return ip.String(), nil
	}
	if at, rest, ok := strings.Cut(word, "@"); ok {
		return "", bad.Then("Give the user apart: `/join-node %s --user %s`.", rest, at)
	}
	if h, p, ok := strings.Cut(word, ":"); ok {
		return "", bad.Then("Give the port apart: `/join-node %s --port %s`.", h, p)
	}
	if len(word) > 253 || !hostName.MatchString(word) {
		return "", bad.Then("Give an IPv4 address (`10.0.0.12`), an IPv6 address or a name (`db.example.com`).")
	}
	return strings.ToLower(word), nil
}

// labelKey is what a label's name may be here; Docker takes nearly anything.
var labelKey = regexp.MustCompile(`^[a-zA-Z0-9](?:[-_./a-zA-Z0-9]{0,126}[a-zA-Z0-9])?$`)

func parseNodeLabel(args Args) (ops.Operation, error) {
	if len(args.Words) < 2 {
		return nil, ops.Errorf(ops.Invalid, "/node label takes a node and labels, and was given %s", count(args.Words))
	}
	name, err := parseNodeName(args.Words[0])
	if err != nil {
		return nil, err
	}
	l := &ops.NodeLabel{Node: name}
	seen := map[string]bool{}
	for _, w := range args.Words[1:] {
		key, value, set := strings.Cut(w, "=")
		if !set {
			var removes bool
			if key, removes = strings.CutSuffix(w, "-"); !removes {
				return nil, ops.Errorf(ops.Invalid, "%q neither sets a label (key=value) nor removes one (key-)", cut(w, 60))
			}
		}
		switch {
		case !labelKey.MatchString(key):
			return nil, ops.Errorf(ops.Invalid, "%q is no label's name: it has letters, digits and - _ . / only", cut(key, 60))
		case seen[key]:
			return nil, ops.Errorf(ops.Invalid, "The label %s is there twice", key)
		case len(value) > 1024:
			return nil, ops.Errorf(ops.Invalid, "The value of %s is longer than 1024 bytes", key)
		}
		seen[key] = true
		if set {
			if l.Set == nil {
				l.Set = map[string]string{}
			}
			l.Set[key] = value
		} else {
			l.Unset = append(l.Unset, key)
		}
	}
	return l, nil
}
