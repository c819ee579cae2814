"""The mathematics of diffusion: objectives, timesteps, schedules, guidance, samplers. No weights or files."""
