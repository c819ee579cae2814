"""Training: Lightning modules, losses, averages of weights, demos, loggers, the assembly of a run.

    processes/     processes of one run: meeting, sharing weights and values, stopping together
    optimisation/  optimizer steps, parameter groups, averages of weights
    guards/        bad steps, broken weights, rescue after an error
    saving/        the run's folder: checkpoints, room, recovery, resuming
    devices/       precision, compiled networks, what waits in host memory, and checks of these
    batches/       loaders, order, randomness, latents ahead or kept
    diffusion/     training of diffusion models
    autoencoder/   training of autoencoders
    methods/       METHODS: how a config of each model type is trained
    record/        what a run tells: run.json, run.html, log, loggers
    speed/         where the time of steps goes
    memory_plan/   the memory of a run, planned before it starts
    callbacks/     what happens around steps
    starting/      the model and the agreements that a run starts with
    check/         `stable-audio check`
    finetune/      `stable-audio finetune`

Beside them is what all share (errors, options, window, transforms, teacher, demo, modes), the module that
every training extends (base), and the assembly (build, lightning_trainer, run, trainer, from_files, bakeoff).
`TRAINING_SHELVES` in `tests/test_architecture.py` says which of these may import which.

Nothing is imported here, so that `stable_audio.training.optimisation.ema` and the like work without
Lightning.
"""
