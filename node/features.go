package node

import clientfeatures "k8s.io/client-go/features"

// localLists has the node's own informers begin with a list of what the node's
// replica holds (resourceVersion 0). By default client-go streams the first list by
// a watch that wants the latest state, which a node without a quorum cannot vouch for:
// its informers would wait for one before they fell back to a list.
func localLists() {
	clientfeatures.ReplaceFeatureGates(withoutWatchList{clientfeatures.FeatureGates()})
}

type withoutWatchList struct{ clientfeatures.Gates }

// Enabled implements clientfeatures.Gates.
func (g withoutWatchList) Enabled(feature clientfeatures.Feature) bool {
	return feature != clientfeatures.WatchListClient && g.Gates.Enabled(feature)
}
