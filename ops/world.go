package ops

import "context"

// world is the whole swarm at one moment.
type world struct {
	services []Service
	nodes    []Node
	tasks    []Task
	of       map[string][]Task // by service id
	used     map[string]Reserved
}

func readWorld(ctx context.Context, swarm Swarm) (w world, err error) {
	if w.services, err = swarm.Services(ctx); err != nil {
		return w, err
	}
	if w.nodes, err = swarm.Nodes(ctx); err != nil {
		return w, err
	}
	if w.tasks, err = swarm.NodeTasks(ctx, ""); err != nil {
		return w, err
	}
	w.of = map[string][]Task{}
	for _, t := range w.tasks {
		w.of[t.ServiceID] = append(w.of[t.ServiceID], t)
	}
	w.used = reservations(w.services, w.tasks)
	return w, nil
}

func (w world) observe(s Service) Replicas {
	return Observe(s.wantedReplicas(), w.of[s.ID], w.nodes)
}
