"""Logic only: no paths, no files, no network, no Prefect, no DVC. Imports nothing but itself."""
