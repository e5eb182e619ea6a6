package shim

// Bodies of requests and answers that are not types of the API themselves.
// They are exported for runtime/shim/server; users of the Client never see them.

// IDBody names a sandbox or container.
type IDBody struct {
	ID string `json:"id"`
}

// IDsBody names several containers.
type IDsBody struct {
	IDs []string `json:"ids"`
}

// SignalBody is the request of Signal.
type SignalBody struct {
	ID     string `json:"id"`
	Signal int    `json:"signal"`
}

// UpdateBody is the request of Update.
type UpdateBody struct {
	ID        string    `json:"id"`
	Resources Resources `json:"resources"`
}

// ExitsBody is the answer of Exits.
type ExitsBody struct {
	Exits  []Exit `json:"exits"`
	Cursor Cursor `json:"cursor"`
}

// ExecBody is the request of Exec.
type ExecBody struct {
	Container string   `json:"container"`
	Spec      ExecSpec `json:"spec"`
	Streams   []int    `json:"streams,omitempty"` // which of stdin 0, stdout 1, stderr 2 each passed descriptor is
}

// ExecIDBody names an exec; Signal is for SignalExec.
type ExecIDBody struct {
	Container string `json:"container"`
	Exec      string `json:"exec"`
	Signal    int    `json:"signal,omitempty"`
}

// UpgradeBody is the request of Upgrade.
type UpgradeBody struct {
	Program string `json:"program"`
}
