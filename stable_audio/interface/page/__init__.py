"""The page of `stable-audio ui`, on the service: plain HTML, CSS and ES modules, without a build step."""
