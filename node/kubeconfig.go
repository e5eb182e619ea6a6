package node

import (
	"fmt"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"kontiki/pki"
)

// adminKubeconfig is where a node leaves a kubeconfig with all rights, for whoever
// may read the data directory.
func adminKubeconfig(dir string) string { return filepath.Join(dir, "admin.kubeconfig") }

// writeKubeconfig makes the admin's kubeconfig, with a fresh certificate.
func (n *node) writeKubeconfig() error {
	cert, key, err := n.charter.trust.Authority.User("kubernetes-admin", []string{"system:masters"}, n.now())
	if err != nil {
		return err
	}
	const name = "kontiki"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{
		Server:                   "https://" + hostPort(n.advertise(), n.cfg.Port),
		CertificateAuthorityData: n.charter.trust.Authority.CertPEM(),
	}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("write the admin kubeconfig: %w", err)
	}
	return pki.WriteFile(adminKubeconfig(n.cfg.DataDir), data)
}
