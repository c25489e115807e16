"""Engines, which compute the log-probabilities of a recognizer: torch and OpenVINO behind one interface."""
