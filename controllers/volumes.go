package controllers

import (
	"log/slog"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"kontiki/controllers/ephemeralvolume"
	"kontiki/controllers/localpath"
	"kontiki/controllers/volumebinder"
	"kontiki/controllers/volumeprotection"
)

// volumeControllers look after claims and volumes.
func volumeControllers(client kubernetes.Interface, shared informers.SharedInformerFactory, recorders *recorders, log *slog.Logger) []controller {
	volumes := kinds("v1", "persistentvolumes", "persistentvolumeclaims")
	classes := append(kinds("storage.k8s.io/v1", "storageclasses"), volumes...)
	return []controller{
		{name: volumebinder.Name, needs: classes, start: func() (runner, error) {
			return volumebinder.New(client, shared, recorders.as(volumebinder.Component), log), nil
		}},
		{name: localpath.Name, needs: classes, start: func() (runner, error) {
			return localpath.New(client, shared, recorders.as(localpath.Component), log), nil
		}},
		{name: volumeprotection.Name, needs: volumes, start: func() (runner, error) {
			return volumeprotection.New(client, shared, log), nil
		}},
		{name: ephemeralvolume.Name, needs: kinds("v1", "persistentvolumeclaims"), start: func() (runner, error) {
			return ephemeralvolume.New(client, shared, recorders.as(ephemeralvolume.Component), log), nil
		}},
	}
}
