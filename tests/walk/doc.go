// Package walk is a world in memory that lives by the program's own decisions: nodes with
// their volumes, a RabbitMQ on each, the Consul they share, and people who work on them.
//
// Every process is a coroutine, and every step of it an event in virtual time: one question
// answered, one thing done, one event heard, one report to Consul, one act of a person, one
// fault. No step takes real time, none waits for a scheduler, and a world is made of its
// seed: the same seed walks the same way. Between any two steps of a process those of all
// others may come.
//
// What nodes decide is the product's own: [peers.Decide], [policy.Decide],
// [policy.NextChore], [policy.Heard] and [policy.Ended], and the changes of [peers.Record].
// Around them formation.go repeats what packages entrypoint and formation do, companion.go
// and act.go what package companion does, and operators.go what package admin does, in the
// same order. Promises are in promises.go: they are kept against the world as it is, not
// against what nodes believe.
//
// Package sim is the other world: there the product's own I/O is at work, for the founding
// and for what follows on it, a hundred times slower.
package walk
