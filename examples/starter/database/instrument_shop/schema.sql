-- An online shop for musical instruments: brands, suppliers, products, customers, orders with their items, reviews.

CREATE TABLE brands (
    brand_id INTEGER PRIMARY KEY,
    brand_name TEXT NOT NULL,
    country TEXT NOT NULL,
    founded_year INTEGER,
    warranty_years INTEGER NOT NULL
);

CREATE TABLE suppliers (
    supplier_id INTEGER PRIMARY KEY,
    supplier_name TEXT NOT NULL,
    city TEXT NOT NULL,
    lead_days INTEGER NOT NULL,
    contract_from TEXT NOT NULL,
    contract_until TEXT,
    minimum_order REAL
);

CREATE TABLE products (
    product_id INTEGER PRIMARY KEY,
    product_name TEXT NOT NULL,
    category TEXT NOT NULL,
    brand_id INTEGER NOT NULL,
    supplier_id INTEGER,
    list_price REAL NOT NULL,
    sale_price REAL,
    purchase_price REAL NOT NULL,
    stock_count INTEGER NOT NULL,
    reorder_level INTEGER NOT NULL,
    listed_on TEXT NOT NULL,
    discontinued_on TEXT,
    FOREIGN KEY (brand_id) REFERENCES brands (brand_id),
    FOREIGN KEY (supplier_id) REFERENCES suppliers (supplier_id)
);

CREATE TABLE customers (
    customer_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    email TEXT,
    city TEXT NOT NULL,
    country TEXT NOT NULL,
    registered_on TEXT NOT NULL,
    newsletter INTEGER NOT NULL
);

CREATE TABLE orders (
    order_id INTEGER PRIMARY KEY,
    customer_id INTEGER NOT NULL,
    ordered_on TEXT NOT NULL,
    shipped_on TEXT,
    delivered_on TEXT,
    status TEXT NOT NULL,
    payment_method TEXT NOT NULL,
    shipping_fee REAL NOT NULL,
    voucher_code TEXT,
    FOREIGN KEY (customer_id) REFERENCES customers (customer_id)
);

CREATE TABLE order_items (
    item_id INTEGER PRIMARY KEY,
    order_id INTEGER NOT NULL,
    product_id INTEGER NOT NULL,
    quantity INTEGER NOT NULL,
    unit_price REAL NOT NULL,
    discount_percent INTEGER,
    returned_on TEXT,
    FOREIGN KEY (order_id) REFERENCES orders (order_id),
    FOREIGN KEY (product_id) REFERENCES products (product_id)
);

CREATE TABLE reviews (
    review_id INTEGER PRIMARY KEY,
    product_id INTEGER NOT NULL,
    customer_id INTEGER NOT NULL,
    rating INTEGER NOT NULL,
    review_title TEXT,
    posted_on TEXT NOT NULL,
    helpful_votes INTEGER NOT NULL,
    FOREIGN KEY (product_id) REFERENCES products (product_id),
    FOREIGN KEY (customer_id) REFERENCES customers (customer_id)
);
