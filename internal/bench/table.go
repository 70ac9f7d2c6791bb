package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// figure is one thing that is measured, several times.
type figure string

const (
	ready      figure = "ready"
	cliVersion figure = "docker version"
	idleRSS    figure = "resident, idle"
	idleAnon   figure = "anonymous, idle"
	busyRSS    figure = "resident, after work"
	busyAnon   figure = "anonymous, after work"
	cliRSS     figure = "docker service ls"
	running    figure = "asked to sixth running"
	cliRunning figure = "docker: asked to sixth running"
	reported   figure = "sixth running to reported"
	scaled     figure = "scaled"
	cliScaled  figure = "docker service scale"
	deployed   figure = "deployed"
	rolledOut  figure = "push to new version running"
	handRolled figure = "by hand: push to new version running"
	acked      figure = "acknowledged"
	listed     figure = "app list, large"
	overviewed figure = "swarm, large"
	cliListed  figure = "docker service ls, large"
	looked     figure = "server looked at"
	joined     figure = "looked, approved and joined"
	sshJoined  figure = "ssh docker swarm join"
	bareJoined figure = "the engine's own join"
)

func (b *bench) print(w io.Writer, runs, acks int) {
	if b.only == "webhooks" || b.only == "cache" {
		return
	}
	fmt.Fprintf(w, "Medians of %d runs (lowest–highest), time to ready of %d; the docker command line in the same runs on the same engine.\n\n", runs, len(b.got[ready]))
	fmt.Fprint(w, "| | Waggle | aim | docker command line | ratio |\n|---|---|---|---|---|\n")
	for _, r := range []struct {
		what        string
		ours, cli   figure
		aim, beside string
		unit        string
	}{
		{"`waggle serve` to `/readyz` 200", ready, cliVersion, "≤ 200", "`docker version`", "ms"},
		{"resident memory, ready and idle for 3 s", idleRSS, cliRSS, "≤ 30", "`docker service ls`, peak", "MB"},
		{"… of it anonymous", idleAnon, "", "", "", "MB"},
		{"resident memory 3 s after a scale and a deploy", busyRSS, cliRSS, "≤ 30", "`docker service ls`, peak", "MB"},
		{"… of it anonymous", busyAnon, "", "", "", "MB"},
		{"scale 1→6: asked to the sixth task running", running, cliRunning, "", "`docker service scale`", "ms"},
		{"scale 1→6: the sixth task running to the message that says so", reported, "", "≤ 300", "", "ms"},
		{"scale 1→6: asked to done, held for 5 s", scaled, cliScaled, "", "`docker service scale`", "ms"},
		{"`/app list` in a swarm of 200 services and 2,000 tasks", listed, cliListed, "≤ 2 of it", "`docker service ls`", "ms"},
		{"`/swarm` there", overviewed, cliListed, "≤ 2 of it", "`docker service ls`", "ms"},
		{"`/join-node` to the plan that asks for an approval", looked, "", "", "", "ms"},
		{"that, and approved until the node is Ready; the time in between left out", joined, sshJoined, "≤ 0.35 of it", "`ssh root@node docker swarm join`", "ms"},
		{"`git push` to the new version running", rolledOut, handRolled, "≤ 0.85 of it", "`git push`, `git clone`, `docker build`, `docker push`, `docker service update`", "ms"},
		{"push to deployed, held for 5 s", deployed, "", "", "", "ms"},
	} {
		if len(b.got[r.ours]) == 0 {
			continue
		}
		cli, ratio := "", ""
		if r.cli != "" && len(b.got[r.cli]) > 0 {
			cli = r.beside + " " + b.cell(r.cli, r.unit)
			ratio = fmt.Sprintf("%.2f", median(b.got[r.ours])/median(b.got[r.cli]))
		}
		aim := r.aim
		if aim != "" && !strings.HasSuffix(aim, "it") {
			aim += " " + r.unit
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", r.what, b.cell(r.ours, r.unit), aim, cli, ratio)
	}
	if len(b.got[acked]) > 0 {
		fmt.Fprintf(w, "| slash command to acknowledgement, %d times | p50 %.1f ms, p99 %.1f ms | ≤ 3000 ms | | |\n",
			acks, quantile(b.got[acked], 0.5), quantile(b.got[acked], 0.99))
	}
	fmt.Fprintln(w)
	if len(b.got[bareJoined]) > 0 {
		fmt.Fprintf(w, "- A join cannot take less than the engine does, told by one call on its own socket: %s.\n", b.cell(bareJoined, "ms"))
	}
	fmt.Fprint(w, `- Redis writes each command to disk; Slack is the local workspace, on loopback.
- When the sixth task runs is the node's own word, the task's status timestamp. The
  message after it waits for its turn too: three edits at once, then one every 1.2 s, as Slack asks.
- Both hold 5 s after the sixth task runs: the swarm's monitor period.
- Resident memory holds the pages of the program's file that were touched; the
  kernel shares and drops them. Anonymous is what only this process has. The peak of
  the command line, read every 2 ms, may be a little low.
`)
}

func (b *bench) cell(f figure, unit string) string {
	v := b.got[f]
	digits := 0
	if unit == "MB" {
		digits = 1
	}
	return fmt.Sprintf("%.*f %s (%.*f–%.*f)", digits, median(v), unit, digits, slices.Min(v), digits, slices.Max(v))
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	return (s[(n-1)/2] + s[n/2]) / 2
}

// quantile is the smallest value that a share q of all does not exceed.
func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[max(0, int(math.Ceil(q*float64(len(s))))-1)]
}
