@rem npm scripts say "exec" so that signals reach the service itself. cmd of Windows has no exec, and runs this instead.
@%*
