"""One safetensors file for a recognizer: header, reading, writing, the stored sweep."""
