"""tuning: many short trainings that find a better train config. Optuna proposes, Ray Tune runs, ASHA stops."""
