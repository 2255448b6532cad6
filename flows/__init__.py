"""The pipeline as Prefect flows: when and where a stage runs. DVC decides whether."""
