// Loaded into a server before its program, with --expose-gc: SIGUSR2 collects the garbage of the main thread's heap, so
// that the memory in use can be told from the memory that V8 has not got round to reclaiming.
process.on('SIGUSR2', () => gc?.());
