"""What goes over HTTP between the controller and its clients, the `fleet` command among them: values only."""
