// Package clients runs clients that others wrote, unchanged, against a node of
// this cluster: Helm, an informer, a controller-runtime manager, server-side apply,
// admission webhooks and an aggregated API. It is a module of its own, so that the
// product carries none of them, and has no code but tests. They need root and the
// built program, whose path they take from KONTIKI_BIN (make test sets it).
package clients
