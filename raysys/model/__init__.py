"""The model station: item encoders and a sequence backbone make a Recommender. Never imports ray."""
