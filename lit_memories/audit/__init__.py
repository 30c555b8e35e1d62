"""The audit's LightningModule, its records on disk, and the metrics it carries."""
