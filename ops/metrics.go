package ops

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics count what operations come to. Labels are from closed sets: kinds of
// operations and final states.
type Metrics struct {
	done *prometheus.CounterVec
	took *prometheus.HistogramVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		done: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "waggle_operations_total", Help: "Operations that came to an end, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "waggle_operation_duration_seconds", Help: "From the request to the end, waiting for people included.",
			Buckets: []float64{1, 2, 5, 10, 20, 60, 120, 300, 600, 1800},
		}, []string{"kind"}),
	}
	reg.MustRegister(m.done, m.took)
	return m
}

func (m *Metrics) count(kind string, outcome State, took time.Duration) {
	m.done.WithLabelValues(kind, string(outcome)).Inc()
	m.took.WithLabelValues(kind).Observe(took.Seconds())
}
