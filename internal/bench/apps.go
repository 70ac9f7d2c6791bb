package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"waggle/internal/rig"
	"waggle/internal/workspace"
)

// A swarm that no machine here could run: an engine that only tells of it.
const (
	manyServices = 200
	manyTasks    = 10 // of each service
	manyNodes    = 20
)

// apiVersion is the part of a path that says which version of the API it means.
var apiVersion = regexp.MustCompile(`^/v1\.[0-9]+`)

// largeSwarm answers as an engine does that is a manager of such a swarm. Every
// tenth service has a task that does not run.
func largeSwarm() http.Handler {
	type object = map[string]any
	now := time.Now().UTC().Format(time.RFC3339Nano)
	var services, tasks, nodes []object
	for i := range manyNodes {
		n := object{"ID": fmt.Sprintf("node%d", i), "Version": object{"Index": i}, "Spec": object{"Role": "worker", "Availability": "active", "Labels": object{}},
			"Description": object{"Hostname": fmt.Sprintf("node-%d", i), "Platform": object{"OS": "linux", "Architecture": "x86_64"},
				"Resources": object{"NanoCPUs": 8_000_000_000, "MemoryBytes": 32 << 30}, "Engine": object{"EngineVersion": "28.5.2"}},
			"Status": object{"State": "ready", "Addr": fmt.Sprintf("10.9.0.%d", i+1)}}
		if i == 0 {
			n["Spec"].(object)["Role"] = "manager"
			n["ManagerStatus"] = object{"Leader": true, "Reachability": "reachable", "Addr": "10.9.0.1:2377"}
		}
		nodes = append(nodes, n)
	}
	for i := range manyServices {
		id := fmt.Sprintf("service%d", i)
		image := fmt.Sprintf("registry.example.com/acme/app-%d:1a2b3c4@sha256:%064d", i, i)
		services = append(services, object{"ID": id, "Version": object{"Index": i}, "CreatedAt": now, "UpdatedAt": now,
			"Spec": object{"Name": fmt.Sprintf("app-%d", i), "Labels": object{"waggle.repo": "https://git.example.com/acme/app.git"},
				"Mode": object{"Replicated": object{"Replicas": manyTasks}}, "TaskTemplate": object{"ContainerSpec": object{"Image": image}}},
			"ServiceStatus": object{"RunningTasks": manyTasks, "DesiredTasks": manyTasks}})
		for slot := range manyTasks {
			t := object{"ID": fmt.Sprintf("task%d-%d", i, slot), "ServiceID": id, "NodeID": fmt.Sprintf("node%d", (i+slot)%manyNodes), "Slot": slot + 1,
				"CreatedAt": now, "UpdatedAt": now, "DesiredState": "running", "Spec": object{"ContainerSpec": object{"Image": image}},
				"Status": object{"State": "running", "Timestamp": now}}
			if i%10 == 0 && slot == 0 {
				t["Status"] = object{"State": "pending", "Err": "no suitable node (insufficient resources on 20 nodes)", "Timestamp": now}
			}
			tasks = append(tasks, t)
		}
	}
	answers := map[string]any{
		"/services": services, "/tasks": tasks, "/nodes": nodes, "/configs": []object{},
		"/info": object{"Name": "node-0", "ServerVersion": "28.5.2", "OSType": "linux", "SystemTime": now,
			"Swarm": object{"NodeID": "node0", "LocalNodeState": "active", "ControlAvailable": true, "Cluster": object{"ID": "large"}}},
		"/swarm":     object{"ID": "large", "JoinTokens": object{"Worker": "w", "Manager": "m"}},
		"/system/df": object{"LayersSize": 0, "Images": []object{}},
	}
	encoded := map[string][]byte{}
	for path, v := range answers {
		encoded[path], _ = json.Marshal(v) // plain maps always encode
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.51")
		w.Header().Set("Content-Type", "application/json")
		path := apiVersion.ReplaceAllString(r.URL.Path, "")
		body, known := encoded[path]
		switch {
		case path == "/_ping":
			_, _ = w.Write([]byte("OK"))
		case known:
			_, _ = w.Write(body)
		default:
			http.Error(w, `{"message":"not here"}`, http.StatusNotFound)
		}
	})
}

// large measures what reading takes in a large swarm.
func (b *bench) large(ctx context.Context, runs int) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: largeSwarm(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { _ = server.Close(); <-served }()
	host := "tcp://" + l.Addr().String()
	settings := maps.Clone(b.settings)
	settings["WAGGLE_DOCKER_HOST"] = host
	waggle, err := rig.Start(ctx, b.binary, b.addr, settings, nil, true)
	if err != nil {
		return err
	}
	for range runs * 4 {
		for command, f := range map[string]figure{"/swarm": overviewed, "/app list": listed} {
			name, text, _ := strings.Cut(command, " ")
			ack, err := b.ws.Command(ctx, workspace.CommandInput{User: ada, Channel: channel, Command: name, Text: text})
			if err != nil || !ack.OK() || !strings.Contains(ack.Body, "200 apps") {
				return errors.Join(fmt.Errorf("%s: %w %s\n%.300s", command, err, ack.Error, ack.Body), waggle.Stop())
			}
			b.note(f, ack.Took)
		}
		cmd := exec.CommandContext(ctx, "docker", "service", "ls")
		cmd.Env = append(os.Environ(), "DOCKER_HOST="+host, "DOCKER_CONFIG="+b.dir)
		began := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "\n") != manyServices+1 {
			return errors.Join(fmt.Errorf("docker service ls: %w\n%.300s", err, out), waggle.Stop())
		}
		b.note(cliListed, time.Since(began))
	}
	return waggle.Stop()
}
