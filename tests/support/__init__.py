"""What tests share: tiny models, tasks on disk, cases made by the literal forms."""
