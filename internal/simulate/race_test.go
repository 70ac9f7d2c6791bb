//go:build race

package simulate

// defaultSeeds is lower because the race detector makes runs ten times slower.
const defaultSeeds = 50
