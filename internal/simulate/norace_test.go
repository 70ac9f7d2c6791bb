//go:build !race

package simulate

const defaultSeeds = 500

const stepsNth = 2
