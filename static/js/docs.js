// The viewer of the API's document, in the theme of the page around it.
(() => {
  const root = document.documentElement;
  const follow = () =>
    root.classList.toggle("dark-mode", root.dataset.bsTheme === "dark");
  follow();
  new MutationObserver(follow).observe(root, { attributeFilter: ["data-bs-theme"] });
  const place = document.getElementById("document");
  SwaggerUIBundle({
    domNode: place,
    url: place.dataset.url,
    deepLinking: true,
    displayOperationId: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    persistAuthorization: false,
    showExtensions: true,
    tryItOutEnabled: false,
    validatorUrl: null,
  });
})();
