"""What answers the questions of a service: the model in this process, or scorers in processes of their own."""
