"""Evaluation of recognizers: error rates with confidence intervals, time, memory and compute."""
