package workload_test

import "testing"

func TestIdentityIsJudged(t *testing.T) {
	const end = `
		9 n1 invoke final
		9 n1 ok final`
	judge(t, "identity", []judgment{
		{"one after the other", `
			1 n1 info born k=db-0 v=db-0+a since=10
			2 n2 info born k=db-0 v=db-0+b since=31
			3 n2 info born k=db-1 v=db-1+c since=12
			1 n1 info lived k=db-0 since=10 until=30
			2 n2 info lived k=db-0 since=31 until=50
			3 n2 info lived k=db-1 since=12 until=50` + end, ""},
		{"two at a time", `
			1 n1 info born k=db-0 v=db-0+a since=10
			2 n2 info born k=db-0 v=db-0+b since=20
			1 n1 info lived k=db-0 since=10 until=30
			2 n2 info lived k=db-0 since=20 until=50` + end, "two at a time"},
		{"one within another", `
			1 n1 info born k=db-0 v=db-0+a since=10
			2 n2 info born k=db-0 v=db-0+b since=20
			3 n3 info born k=db-0 v=db-0+c since=40
			1 n1 info lived k=db-0 since=10 until=50
			2 n2 info lived k=db-0 since=50 until=60
			3 n3 info lived k=db-0 since=40 until=45` + end, "two at a time"},
		{"nobody", end, "no witness"},
		{"pods that do not come back", `
			1 n1 info born k=db-0 v=db-0+a since=10
			9 n1 invoke final
			9 n1 fail final e=a+pod+is+missing`, "no answer in the end"},
	})
}

func TestAddressesAreJudged(t *testing.T) {
	const pods = `
		1 n1 info born k=10.42.0.2 v=a+1 since=10
		1 n1 info lived k=10.42.0.2 since=10 until=30
		`
	const one = pods + `5 n1 invoke create-service k=s-1
		5 n1 ok create-service k=s-1 items=10.43.0.7:address:0,30001:node+port:0
		`
	judge(t, "addresses", []judgment{
		{"each its own", one + `6 n2 invoke create-service k=s-2
			6 n2 ok create-service k=s-2 items=10.43.0.8:address:0,30002:node+port:0
			6 n2 invoke nodes
			6 n2 ok nodes items=a:n1:0,b:n2:0`, ""},
		{"two pods", pods + `2 n2 info born k=10.42.0.2 v=b+2 since=20
			2 n2 info lived k=10.42.0.2 since=20 until=40`, "two at a time"},
		{"one pod after the other", pods + `2 n2 info born k=10.42.0.2 v=b+2 since=31
			2 n2 info lived k=10.42.0.2 since=31 until=40`, ""},
		{"two Services with one address", one + `6 n2 invoke create-service k=s-2
			6 n2 ok create-service k=s-2 items=10.43.0.7:address:0,30002:node+port:0`, "two at a time"},
		{"two Services with one node port", one + `6 n2 invoke create-service k=s-2
			6 n2 ok create-service k=s-2 items=10.43.0.8:address:0,30001:node+port:0`, "two at a time"},
		{"an address that was given back", one + `5 n1 invoke delete-service k=s-1
			6 n2 invoke create-service k=s-2
			6 n2 ok create-service k=s-2 items=10.43.0.7:address:0,30001:node+port:0`, ""},
		{"two nodes with one subnet", pods + `6 n2 invoke nodes
			6 n2 ok nodes items=a:n1:0,a:n2:0`, "two at a time"},
		{"nobody", ``, "no witness"},
	})
}

func TestReachIsJudged(t *testing.T) {
	const pods = `
		1 n1 info born k=10.42.0.2 v=a+1 since=1
		2 n2 info born k=10.42.1.2 v=b+2 since=1
		3 n3 info born k=10.42.2.2 v=c+3 since=1
		1 n1 info asked k=b v=a+1 level=b since=10 until=11
		1 n1 info asked k=reach v=a+1 level=c since=10 until=11
		`
	// A fault from 20 to 60 that touches what it says.
	fault := func(items string) string {
		return pods + "-1 n1 invoke partition t=20\n-1 n1 info touches t=25 items=" + items + "\n"
	}
	const over = `
		-1 n1 ok partition t=50
		-2 n1 invoke whole t=51
		-2 n1 ok whole t=60
		`
	const fails = `1 n1 info asked k=b v=a+1 e=i/o+timeout since=30 until=35
		`
	const refused = `1 n1 info asked k=reach v=a+1 e=connection+refused since=30 until=31
		`
	judge(t, "reach", []judgment{
		{"all goes on", pods + `1 n1 info asked k=b v=a+1 level=b since=30 until=31`, ""},
		{"no fault", pods + fails, "not reached"},
		{"another answers", pods + `1 n1 info asked k=b v=a+1 level=c since=30 until=31`, "not reached"},
		{"between others", fault("n1:n3:0,n2:n3:0") + fails + over, "not reached"},
		{"between these", fault("n1:n2:0") + fails + over, ""},
		{"between these, the other way round", fault("n2:n1:0") + fails + over, ""},
		{"of one of them", fault("n2:*:0") + fails + over, ""},
		{"of a node's process", fault("n1:node:0") + fails + over, "not reached"},
		{"while nobody knows whom it touches", pods + `-1 n1 invoke partition t=20
			1 n1 info asked k=b v=a+1 e=i/o+timeout since=21 until=24
			-1 n1 info touches t=25 items=n1:n3:0` + over, ""},
		{"after it, and not gone again yet", fault("n1:n2:0") + over + `1 n1 info asked k=b v=a+1 e=i/o+timeout since=61 until=65`, ""},
		{"after it was gone again", fault("n1:n2:0") + over + `1 n1 info asked k=b v=a+1 level=b since=61 until=62
			1 n1 info asked k=b v=a+1 e=i/o+timeout since=63 until=65`, "not reached"},
		{"a Service, by name, of a node that is paused", fault("n1:node:0") + refused + over, ""},
		{"a Service, when another is paused", fault("n3:node:0") + refused + over, "not reached"},
		{"a Service that a cut end of may be asked", fault("n1:n3:0") + refused + over, ""},
		{"a Service that refuses again and again", fault("n1:n3:0") + refused + refused + refused + refused + refused + over, "a Service refused"},
		{"nobody", ``, "no witness"},
		{"not all in the end", pods + `9 n1 invoke final
			9 n1 fail final e=c`, "no answer in the end"},
	})
}
