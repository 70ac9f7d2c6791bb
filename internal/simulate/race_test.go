//go:build race

package simulate

// defaultSeeds is lower because the race detector makes runs ten times slower.
const defaultSeeds = 50

// stepsNth is how many times each step is reached before the fault, at most.
const stepsNth = 1
