-- A bakery wholesaler: its products and their recipes, the ingredients, the customers, their orders and complaints.
CREATE TABLE product (
    product_id INTEGER PRIMARY KEY,
    product_name TEXT NOT NULL,
    category TEXT NOT NULL,
    dough_weight_g INTEGER NOT NULL,
    baked_weight_g INTEGER NOT NULL,
    list_price REAL NOT NULL,
    sale_price REAL,
    launched_on DATE NOT NULL,
    discontinued_on DATE
);

CREATE TABLE ingredient (
    ingredient_id INTEGER PRIMARY KEY,
    ingredient_name TEXT NOT NULL,
    supplier TEXT NOT NULL,
    allergen TEXT,
    cost_per_kg REAL NOT NULL,
    stock_kg REAL NOT NULL,
    minimum_stock_kg REAL NOT NULL
);

CREATE TABLE recipe_item (
    product_id INTEGER NOT NULL,
    ingredient_id INTEGER NOT NULL,
    batch_grams INTEGER NOT NULL,
    PRIMARY KEY (product_id, ingredient_id),
    FOREIGN KEY (product_id) REFERENCES product (product_id),
    FOREIGN KEY (ingredient_id) REFERENCES ingredient (ingredient_id)
);

CREATE TABLE customer (
    customer_id INTEGER PRIMARY KEY,
    company_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    delivery_zone TEXT NOT NULL,
    contact_person TEXT,
    credit_limit INTEGER NOT NULL,
    balance_due INTEGER NOT NULL,
    signed_on DATE NOT NULL
);

CREATE TABLE bakery_order (
    order_id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL,
    ordered_on DATE NOT NULL,
    promised_on DATE NOT NULL,
    delivered_on DATE,
    payment_method TEXT NOT NULL,
    discount_pct INTEGER NOT NULL,
    FOREIGN KEY (customer_id) REFERENCES customer (customer_id)
);

CREATE TABLE order_line (
    order_id INTEGER NOT NULL,
    product_id INTEGER NOT NULL,
    quantity_ordered INTEGER NOT NULL,
    quantity_delivered INTEGER NOT NULL,
    unit_price REAL NOT NULL,
    PRIMARY KEY (order_id, product_id),
    FOREIGN KEY (order_id) REFERENCES bakery_order (order_id),
    FOREIGN KEY (product_id) REFERENCES product (product_id)
);

CREATE TABLE complaint (
    complaint_id INTEGER PRIMARY KEY,
    order_id INTEGER NOT NULL,
    topic TEXT NOT NULL,
    raised_on DATE NOT NULL,
    resolved_on DATE,
    refund_claimed REAL NOT NULL,
    refund_granted REAL,
    FOREIGN KEY (order_id) REFERENCES bakery_order (order_id)
);
