package gossip

const maxExpect = 99
