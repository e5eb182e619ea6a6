package node

import (
	"errors"
	"net/http"
)

var errNoNetwork = errors.New("this node has no pod network yet; see kontiki status")

// answerNet tells of the pod network, once there is one.
func (n *node) answerNet(w http.ResponseWriter, _ *http.Request) {
	network := n.network.Load()
	if network == nil {
		answer(w, nil, errNoNetwork)
		return
	}
	answer(w, network.Report(), nil)
}
