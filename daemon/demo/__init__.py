"""The bundled photo and painting of `styletransferd demo`, and the script that painted the painting."""
