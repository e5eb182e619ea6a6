// Package seeded says whether this build has an error on purpose: it has none, unless
// a build tag asks for it. The proof (docs/JEPSEN.md) is run against it, to see that it
// finds what it is for. Only node imports it.
package seeded
