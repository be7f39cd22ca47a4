// The page of the API. Where somebody is signed in, what is tried here is theirs; else a token is asked for.
"use strict";

const api = document.getElementById("api");

SwaggerUIBundle({
  url: api.dataset.schema,
  domNode: api,
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  // Or it asks a host of its makers whether the schema is valid.
  validatorUrl: null,
  requestInterceptor(request) {
    if (!["GET", undefined].includes(request.method)) {
      request.headers["X-CSRFToken"] = api.dataset.csrf;
    }
    return request;
  },
});
