//! Nothing but tests: two other implementations of Kafka's record batch, rskafka and kafka-protocol, must read what
//! stratalog writes, and the other way round. They live in a package of their own so that the library never builds
//! what they depend on.
