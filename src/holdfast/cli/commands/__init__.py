"""One file per command: `configure` declares its arguments, `run` calls its flow."""
