"""An exported model behind the standard protocols for inference."""
